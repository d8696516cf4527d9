"""What can be tried: pure, no file, process, clock or global random state.

- `spaces`, `choices`: all spaces there are. `search_space`: a cfg with spaces in it; `tree` is what
  it is made of. `draws`: random configurations, and the user's own.

Nothing is imported here, so that who needs one part does not pay for the others.
"""
