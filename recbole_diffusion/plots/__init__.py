"""Pictures of a schedule, a model and a run: one function each, which returns a matplotlib figure.

matplotlib comes with the extra ``plot`` and is imported when a figure is made.
"""
