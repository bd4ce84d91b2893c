"""What a model file is, before a framework loads it; and what it must not be."""
