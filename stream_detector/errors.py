"""Every error this package raises on purpose; each says what its catcher should do.

DetectorError                    anything below
├── ConfigError                  a setting is wrong: tell the user, exit 2
├── DecodeError                  the bytes are not a reading: dead-letter them, go on
├── DataError                    a recording or training set can't be used: tell the user, exit 2
├── ArtifactError                a model file can't be trusted or used: tell the user, exit 2
├── BrokerError                  Kafka refused or is away
│   ├── FencedError              another worker owns this task now: drop it, don't commit
│   ├── BrokerLoginError         Kafka doesn't let this user in (a ConfigError too): tell the user, exit 2
│   └── BrokerRightsError        Kafka doesn't let this user do it (a ConfigError too): name what to grant
└── StoreError                   Redis refused or is away
    ├── StoreAccessError         Redis doesn't let this user in, or do it (a ConfigError too)
    ├── StoreFencedError         a newer writer owns this task's state: drop it, don't commit
    └── StoreLostError           Redis came back without this task's last states: write all of them anew
"""


class DetectorError(Exception):
    """Base of all errors raised on purpose. Catch it where a message to the user is made."""


class ConfigError(DetectorError):
    """A setting is wrong. The message names its path, its value and what was expected. Exit with 2."""


class DecodeError(DetectorError):
    """The bytes are not a reading. Send the message to the dead-letter topic with `code` and `detail`; go on."""

    def __init__(self, code: str, detail: str, channel: str = "") -> None:
        """Keep the documented code (see `records.DEAD_LETTER_CODES`), what exactly was found, and in which channel."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.channel = channel


class DataError(DetectorError):
    """A recording or training set can't be used. The message names the file, the place and the mend. Exit with 2."""


class ArtifactError(DetectorError):
    """A model file is damaged, of an unknown version, or of another channel list than the config. Exit with 2."""


class BrokerError(DetectorError):
    """Kafka refused or can't be reached. Nothing is lost: keep the buffers, report not ready, try again."""


class FencedError(BrokerError):
    """Another worker owns this task now. Drop the task without committing; its new owner has the state."""


class BrokerLoginError(BrokerError, ConfigError):
    """Kafka doesn't let this user in: a password, a token, a certificate. Trying again changes nothing: exit with 2."""


class BrokerRightsError(BrokerError, ConfigError):
    """Kafka lets this user in, but not do what was asked. The message names the right to grant."""


class StoreError(DetectorError):
    """The state store refused or can't be reached. State in memory is still right: go on or pause, by policy."""


class StoreAccessError(StoreError, ConfigError):
    """Redis doesn't let this user in, or not do what was asked. The message names what to look at or to grant."""


class StoreFencedError(StoreError):
    """A newer fencing token was taken for this task. Drop the task without committing."""


class StoreLostError(StoreError):
    """The store has lost what was saved for this task. Take a new token, then save every asset's state."""
