"""Every error this package raises on purpose, with what its catcher should do.

DetectorError                    anything below
├── ConfigError                  a setting is wrong: report it, exit 2
├── DecodeError                  the bytes are not a reading: dead-letter them, continue
├── DataError                    a recording or training set can't be used: report it, exit 2
├── ArtifactError                a model file can't be trusted or used: report it, exit 2
├── BrokerError                  Kafka refused or is unavailable
│   ├── FencedError              another worker owns this task now: drop it, don't commit
│   ├── BatchError               a batch of messages can't be decoded: name its place and the remedy, retry
│   ├── BrokerLoginError         Kafka rejects this user's login (a ConfigError too): report it, exit 2
│   └── BrokerRightsError        this user lacks a permission in Kafka (a ConfigError too): name what to grant
└── StoreError                   Redis refused or is unavailable
    ├── StoreAccessError         Redis rejects this user's login or command (a ConfigError too)
    ├── StoreFencedError         a newer writer owns this task's state: drop it, don't commit
    └── StoreLostError           Redis came back without this task's last states: write all of them again
"""


def exit_status(error: Exception) -> int:
    """Return the status of a program that this error ended."""
    return 2 if isinstance(error, ConfigError | DataError | ArtifactError) else 1


class DetectorError(Exception):
    """Base of all errors raised on purpose. Catch it where errors are reported to the user."""


class ConfigError(DetectorError):
    """A setting is wrong. The message names its path, its value and what was expected. Exit with 2."""


class DecodeError(DetectorError):
    """The bytes are not a reading. Send the message to the dead-letter topic with `code` and `detail`; continue."""

    def __init__(self, code: str, detail: str, channel: str = "") -> None:
        """Keep the documented code (see `records.DEAD_LETTER_CODES`), what exactly was found, and the channel."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.channel = channel


class DataError(DetectorError):
    """A recording or training set can't be used. The message names the file, the place and the fix. Exit with 2."""


class ArtifactError(DetectorError):
    """A model file is damaged, of an unknown version, or of another channel list than the config. Exit with 2."""


class BrokerError(DetectorError):
    """Kafka refused or can't be reached. Nothing is lost: keep the buffers, report not ready, retry."""


class FencedError(BrokerError):
    """Another worker owns this task now. Drop the task without committing; its new owner has the state."""


class BatchError(BrokerError):
    """A batch on a topic can't be decoded. The message names topic, partition, offset, cause and remedy.

    The partition is not read on: nothing is skipped. Retry; the remedy may need a restart.
    """


class BrokerLoginError(BrokerError, ConfigError):
    """Kafka rejects this user's password, token or certificate. Retrying does not help: exit with 2."""


class BrokerRightsError(BrokerError, ConfigError):
    """This user lacks a permission in Kafka. The message names the permission to grant."""


class StoreError(DetectorError):
    """The store refused or can't be reached. State in memory is valid; continue or pause, by `on_store_outage`."""


class StoreAccessError(StoreError, ConfigError):
    """Redis rejects this user's login or command. The message names what to check or to grant."""


class StoreFencedError(StoreError):
    """A newer fencing token was taken for this task. Drop the task without committing."""


class StoreLostError(StoreError):
    """The store has lost the states saved for this task. Take a new token, then save every asset's state."""
