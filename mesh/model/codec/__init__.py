"""The only door between what others write (protobuf messages, YAML) and the frozen types of `mesh.model`.

Strict in both directions: an object with one value that is not understood is refused whole by ConfigError, which names the
field's path, the value, and what would be accepted. Nothing is corrected, truncated or skipped.
"""
