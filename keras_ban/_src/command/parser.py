"""A parser of the command line whose errors name what was probably meant."""

import argparse
import difflib


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that answers wrong commands, values and options with the one that is most like them."""

    def _check_value(self, action, value):
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean([value], action.choices)
            raise

    def refuse(self, unknown):
        """End with an error about arguments that no option takes, code 2."""
        shown = [each for each in self._actions if each.help != argparse.SUPPRESS]
        known = [name for each in shown for name in each.option_strings if name.startswith("--")]
        given = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        hint = did_you_mean(given, known) or f". The options are {', '.join(known)}"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint if given else ''}")


def did_you_mean(given, known):
    """Return a question with the known names that are most like those given; empty if there are none."""
    # Without the dashes, which all options share.
    bare = {name.lstrip("-"): name for name in known}
    found = [name for each in given for name in difflib.get_close_matches(each.lstrip("-").lower(), bare, 1)]
    return f". Did you mean {' and '.join(bare[name] for name in dict.fromkeys(found))}?" if found else ""
