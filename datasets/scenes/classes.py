"""The classes of `scenes`."""

CLASSES = ('wall', 'floor', 'ceiling', 'hanging', 'thing', 'person')
WALL, FLOOR, CEILING, HANGING, THING, PERSON = range(len(CLASSES))
