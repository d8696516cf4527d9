"""The pictures as plotly figures: plain dicts of `data` and `layout`, made without plotly.

A notebook makes a `plotly.graph_objects.Figure` of one, the report writes it as JSON. No colour of
text, grid or background is set here: those come from the template of the page or the notebook.
"""
