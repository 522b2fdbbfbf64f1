"""Times our samplers and training against the plain loops, RecBole's own DiffRec, and the bare products.

``sizes`` names the data sets, ``data`` generates them, ``peers`` holds what we are compared with, ``floor`` counts what must be
done at least, ``measure`` takes times and memory, ``diffrec``, ``dreamrec`` and ``sequential`` say what is timed, ``report``
prints it.
"""
