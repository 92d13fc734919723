"""Task heads on the frozen backbone."""
