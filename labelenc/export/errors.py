"""What can keep a detector from being exported."""


class ExportError(RuntimeError):
    """The detector cannot be exported as asked, or the file does not find what the detector finds."""
