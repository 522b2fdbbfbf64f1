"""Data: converters from the papers' own files to RecBole's, and what RecBole's loading of them lacks.

``convert`` is the entry point of the converters; ``item_lists`` treats given histories; ``history`` and ``dataloader``
are for models that read whole user rows.
"""
