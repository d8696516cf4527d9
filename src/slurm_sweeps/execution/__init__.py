"""Running trials: the driver, its workers, and the channel between them."""
