"""Programs as trials: commands, what they are given, and how their output is read."""
