"""What to try and what to stop: pure, no file, process, clock or global random state.

- `space`: what a search space is; `spaces`, `quantized`, `options`: all there are.
- `search_space`: a cfg with spaces in it; `template` and `compile` are the tree behind it.
- `samplers`: what to try next. `pruner`, `rungs`: what to stop.

Nothing is imported here, so that who needs one part does not pay for the others.
"""
