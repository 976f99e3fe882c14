"""The error a user can mend."""


class UserError(ValueError):
  """Bad input or configuration, told in one sentence: what was wrong, where, what to do.

  The command line prints the sentence alone and exits with status 1; every other
  exception is a defect of the program and keeps its traceback.
  """
