"""The one exception for mistakes that a user can mend.

Everything that a person can put right (a wrong field, a missing file, a full disk) is raised as `UserError`. The command line
prints it without a traceback and exits with code 2; Dagster shows it as the run's failure. Bugs stay ordinary exceptions.
"""


class UserError(Exception):
    """A mistake with its mend.

    `where` names the field, file or command; `what` says what is wrong and shows the value; `mend` says what to do.
    """

    def __init__(self, where: str, what: str, mend: str) -> None:
        self.where, self.what, self.mend = where, what, mend
        super().__init__(f"{where}: {what}. {mend}")
