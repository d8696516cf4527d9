"""What is to be seen in each picture, as data: arrays in, arrays out, nothing is drawn here."""
