"""Converters from the papers' own data files to RecBole's atomic files; ``convert.convert`` is the entry point."""
