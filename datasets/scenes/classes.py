"""The classes of `scenes`."""

CLASSES = (
    'wall', 'floor', 'ceiling', 'window', 'picture', 'cabinet',
    'table', 'chair', 'lamp', 'plant', 'toy', 'person',
)  # fmt: skip
WALL, FLOOR, CEILING, WINDOW, PICTURE, CABINET, TABLE, CHAIR, LAMP, PLANT, TOY, PERSON = range(len(CLASSES))

# Of simple scenes, and the one that each of the others belongs to.
SIMPLE_CLASSES = ('wall', 'floor', 'ceiling', 'hanging', 'thing', 'person')
SIMPLE = (0, 1, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5)
