"""What a number of a configuration is to the program that trains a stage, so that a sweep over it may be one program.

A field without a role is part of the program. One that is ``TRACED`` may be an argument of it, and is then traced
there. ``INITIAL`` ones tell only what a stage begins with.
"""

TRACED = {"role": "traced"}
INITIAL = {"role": "initial"}
