"""All readers of data from strangers: text, images and arrays, stored audits."""

from __future__ import annotations

import image_targets
import stored_targets
import text_targets

__all__ = ["TARGETS"]

TARGETS = (*text_targets.TARGETS, *image_targets.TARGETS, *stored_targets.TARGETS)
