"""`culvert analyze`: what it reads, and how it says what `control.analyze` found.

`files` and `cluster` read; `located` finds the lines; `text`, `document` (JSON) and `sarif` write.
"""
