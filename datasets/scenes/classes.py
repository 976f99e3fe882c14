"""The classes of `scenes`."""

CLASSES = (
    'wall', 'floor', 'ceiling', 'window', 'picture', 'cabinet',
    'table', 'chair', 'lamp', 'plant', 'toy', 'person',
)  # fmt: skip
WALL, FLOOR, CEILING, WINDOW, PICTURE, CABINET, TABLE, CHAIR, LAMP, PLANT, TOY, PERSON = range(len(CLASSES))
