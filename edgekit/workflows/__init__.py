"""The workflows of the commands other than `build`, one file per command."""
