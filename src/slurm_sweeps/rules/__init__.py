"""What to stop: the rules for pruning, as the user configures them and as the sweep asks them."""
