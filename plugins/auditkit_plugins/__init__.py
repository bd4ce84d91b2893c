"""The checks that come with auditkit, one idea a file, through the same entry points as anyone's."""
