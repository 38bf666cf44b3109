"""Thresholds and incidents in Redis (6 or newer) or Valkey. The only module that knows the client.

Layout, with P = `<prefix>:{<stream>}`; the braces keep all keys of a stream on one node of a cluster:

    P:tasks            set      ids of the tasks that were ever acquired
    P:task:<n>         hash     token; epoch, positions: of the newest save; old_epoch, old_positions: the one before
    P:task:<n>:new     hash     asset -> "<epoch>:" and the state's bytes, the newest version
    P:task:<n>:old     hash     asset -> the same, the version before
    P:pins             hash     asset -> level, as text that Python reads back exactly
    P:resets           hash     asset, or "*" -> token of the last reset
    P:accepts          hash     asset -> token of the last acceptance of a regime change
    P:rollbacks        hash     asset -> token of the last rollback, ":" and the state to go back to
    P:controls         string   count of the changes to the four above
    P:verdicts         hash     alert's id -> "<ms>:<partition>:<offset>:" and the rest as JSON
    P:verdicts:times   zset     alert's id -> ms, to find the oldest

Every writing call is one script and so atomic, and one round trip. What it keeps:

- Fencing. `acquire` takes a token above every earlier one, and not below the server's clock in microseconds: tokens
  stay new even when the store was emptied. `save` with any other token than the newest writes nothing.
- Two versions. A save of epoch e moves a version below e from new to old; a version of e or above is of a commit that
  never came to be (a crash between save and commit) and is overwritten. When an earlier save reached e or beyond,
  those of its versions that this save does not overwrite go too: they belong to the commit that was not. So a save of
  an epoch replaces an earlier save of it whole, and a repeated save (an answer lost on the way) changes nothing.
- Loss. Each RedisStore remembers the epoch it last knew of a task. When the task's hash is gone, or stands at an
  older epoch or token (a server back without its last seconds), a save of changes alone would leave a mixture that
  looks whole; it raises StoreLostError instead and writes nothing. Then: acquire again, and save all states.

A control's reset token is the server's time in microseconds, 16 digits: of two, the later one sorts last.
The rights it needs are in `rights.redis_rules`; what is called here and is not there is refused (docs/security.md).
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream_detector.codec import (
    decode_positions,
    decode_recorded,
    decode_state,
    encode_positions,
    encode_recorded,
    encode_state,
)
from stream_detector.config import RedisConfig
from stream_detector.errors import (
    ConfigError,
    DecodeError,
    StoreAccessError,
    StoreError,
    StoreFencedError,
    StoreLostError,
)
from stream_detector.ports import TaskState
from stream_detector.records import AssetState, Controls, Partition, Position, RecordedVerdict

SCAN_COUNT = 500
VERDICTS_AT_ONCE = 500

# The answer is a text: Lua numbers are doubles, and the client would read them back as integers anyway.
_ACQUIRE = """
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if token <= last then token = last + 1 end
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'token', text)
redis.call('SADD', KEYS[2], ARGV[1])
return text
"""

# ARGV: token, epoch, positions, epoch known, then asset, state, asset, state, ...
_SAVE = """
local meta, new, old = KEYS[1], KEYS[2], KEYS[3]
local epoch = tonumber(ARGV[2])
local found = redis.call('HMGET', meta, 'token', 'epoch', 'positions')
local last = tonumber(found[2] or '-1')
if found[1] and found[1] ~= ARGV[1] then return {'fenced', found[1]} end
if not found[1] or last < tonumber(ARGV[4]) then return {'lost', found[2] or 'none'} end
local function epoch_of(version)
  return tonumber(string.match(version, '^(%d+):'))
end
if last >= epoch then
  local versions = redis.call('HGETALL', new)
  for i = 1, #versions, 2 do
    if epoch_of(versions[i + 1]) >= epoch then
      local before = redis.call('HGET', old, versions[i])
      if before and epoch_of(before) < epoch then
        redis.call('HSET', new, versions[i], before)
      else
        redis.call('HDEL', new, versions[i])
        redis.call('HDEL', old, versions[i])
      end
    end
  end
elseif last >= 0 then
  redis.call('HSET', meta, 'old_epoch', found[2], 'old_positions', found[3])
end
for i = 5, #ARGV, 2 do
  local version = redis.call('HGET', new, ARGV[i])
  if version then redis.call('HSET', old, ARGV[i], version) end
  redis.call('HSET', new, ARGV[i], ARGV[2] .. ':' .. ARGV[i + 1])
end
redis.call('HSET', meta, 'epoch', ARGV[2], 'positions', ARGV[3])
local before = redis.call('HGET', meta, 'old_epoch')
if before and tonumber(before) >= epoch then redis.call('HDEL', meta, 'old_epoch', 'old_positions') end
return {'saved', redis.call('GET', KEYS[4]) or '0'}
"""

# Every command that the other scripts use; returns those that the user may not. Servers say so in several ways.
_TRY = """
local refused = {}
local function try(name, ...)
  local answer = redis.pcall(name, ...)
  if type(answer) == 'table' and answer.err and
     (string.find(answer.err, 'permission') or string.find(answer.err, "can't run")) then
    refused[#refused + 1] = name
  end
end
try('TIME')
try('DEL', KEYS[1], KEYS[2])
try('HSET', KEYS[1], 'a', 'b')
try('HGET', KEYS[1], 'a')
try('HMGET', KEYS[1], 'a')
try('HGETALL', KEYS[1])
try('HDEL', KEYS[1], 'a')
try('SADD', KEYS[1], 'a')
try('INCR', KEYS[2])
try('GET', KEYS[2])
try('DEL', KEYS[1], KEYS[2])
try('ZADD', KEYS[1], 0, 'a')
try('ZCARD', KEYS[1])
try('ZRANGE', KEYS[1], 0, 0)
try('ZREM', KEYS[1], 'a')
try('DEL', KEYS[1], KEYS[2])
return refused
"""
# ARGV: how many to keep, then alert, ms, partition, offset, JSON, alert, ...
_RECORD = """
for i = 2, #ARGV, 5 do
  local alert, ms, place, offset = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local kept = redis.call('HGET', KEYS[1], alert)
  local newer = true
  if kept then
    local a, b, c = string.match(kept, '^(-?%d+):(%d+):(%d+):')
    a, b, c = tonumber(a), tonumber(b), tonumber(c)
    if a ~= ms then newer = ms > a elseif b ~= place then newer = place > b else newer = offset >= c end
  end
  if newer then
    redis.call('HSET', KEYS[1], alert, table.concat({ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]}, ':'))
    redis.call('ZADD', KEYS[2], ARGV[i + 1], alert)
  end
end
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[1])
if surplus > 0 then
  for _, alert in ipairs(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) do
    redis.call('HDEL', KEYS[1], alert)
    redis.call('ZREM', KEYS[2], alert)
  end
end
"""
_PIN = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return redis.call('INCR', KEYS[2])"
_UNPIN = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[2])
return 1
"""
_RESET = """
local time = redis.call('TIME')
if ARGV[1] == '*' then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%016.0f', time[1] * 1000000 + time[2]))
return redis.call('INCR', KEYS[2])
"""
# ARGV: asset, what stands after the token
_MARK = """
local time = redis.call('TIME')
local token = string.format('%016.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], token .. ARGV[2])
return redis.call('INCR', KEYS[2])
"""


class RedisStore:
    """State of one stream's tasks in Redis; a `ports.StateStore`. Safe to use from several threads.

    Connects on first use, and again after the server went away. Every method raises StoreError when the server can't
    be reached in `timeout_ms` or refuses.
    """

    def __init__(self, config: RedisConfig, stream: str) -> None:
        """Reads the password; connects to nothing yet. Raises ConfigError when the secret is missing."""
        self._name = config.url
        self._base = f"{config.prefix}:{{{stream}}}"
        options: dict[str, Any] = {
            "username": config.username,
            "password": config.password.reveal() if config.password is not None else None,
            "socket_timeout": config.timeout_ms / 1_000,
            "socket_connect_timeout": config.timeout_ms / 1_000,
            # A pooled connection that the server closed meanwhile is found out by using it: try once more, at once.
            # All our calls may be repeated. A timeout is not tried again: the caller was promised `timeout_ms`.
            "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            "retry_on_timeout": False,
        }
        # No CLIENT SETINFO: one command more that the user would need, which Redis knows from 7.2 on only.
        new = hasattr(redis.connection, "DriverInfo")
        options |= {"driver_info": None} if new else {"lib_name": None, "lib_version": None}
        if config.url.startswith("rediss://"):
            options |= _tls(config)
        if config.url.startswith("unix://"):
            del options["socket_connect_timeout"]
        self._redis: Any = redis.Redis.from_url(config.url, **options)  # Any: its types are unions with coroutines
        self._try: Any = self._redis.register_script(_TRY)
        self._acquire: Any = self._redis.register_script(_ACQUIRE)
        self._save: Any = self._redis.register_script(_SAVE)
        self._record: Any = self._redis.register_script(_RECORD)
        self._pin: Any = self._redis.register_script(_PIN)
        self._unpin: Any = self._redis.register_script(_UNPIN)
        self._reset: Any = self._redis.register_script(_RESET)
        self._mark: Any = self._redis.register_script(_MARK)
        self._known: dict[int, int] = {}  # task -> newest epoch this object knows to be in the store

    def require_rights(self) -> None:
        """Try what a worker does, under keys of its own (`P:probe…`), which are gone afterwards.

        Raises StoreAccessError when the server doesn't let this user in, or not do it. A server that is away is met
        later, by `on_store_outage`.
        """
        keys = [self._key("probe"), self._key("probe:2")]
        try:
            with self._errors():
                if refused := self._try(keys=keys, args=[]):
                    listed = ", ".join(sorted({name.decode().lower() for name in refused}))
                    raise StoreAccessError(self._not_allowed(f"run {listed} in scripts"))
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.get(keys[1]).hgetall(keys[0]).hget(keys[0], "a").smembers(keys[0])
                    pipe.execute()
                self._redis.hscan(keys[0], 0, count=1)
        except StoreAccessError:
            raise
        except StoreError:
            return

    def acquire(self, task: int) -> int:
        """Take a new fencing token of the task; writers with an older one are refused from now on."""
        with self._errors():
            token = int(self._acquire(keys=[self._task(task), self._key("tasks")], args=[task]))
        self._known.pop(task, None)
        return token

    def load(self, task: int, epoch: int | None = None) -> TaskState:
        """Return of each asset the newest version with epoch <= `epoch` (None: the newest); unknown ones are absent.

        `epoch` and `positions` of the answer are those of the newest save at or before `epoch`.
        """
        key = self._task(task)
        with self._errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key).hgetall(f"{key}:new").hgetall(f"{key}:old")
            meta, new, old = pipe.execute()
        with self._decoding(f"task {task}"):
            newest = int(meta.get(b"epoch", -1))
            assets: dict[str, AssetState] = {}
            for name, version in new.items():
                for candidate in (version, old.get(name)):
                    if candidate is None:
                        continue
                    tag, _, value = candidate.partition(b":")
                    if epoch is None or int(tag) <= epoch:
                        assets[name.decode()] = decode_state(value)[1]
                        break
            for prefix in (b"", b"old_"):
                found = int(meta.get(prefix + b"epoch", -1))
                if found >= 0 and (epoch is None or found <= epoch):
                    state = TaskState(assets, found, decode_positions(meta[prefix + b"positions"]))
                    break
            else:
                state = TaskState(assets, 0, {})
        self._known[task] = newest
        return state

    def save(
        self,
        task: int,
        token: int,
        epoch: int,
        states: Mapping[str, AssetState],
        positions: Mapping[Partition, Position],
    ) -> int:
        """Write changed assets as version `epoch`, atomically and in one round trip; return the controls' version.

        Changed means: since the last commit that came to be; a save of an epoch replaces an earlier save of it whole.
        Raises StoreFencedError when `token` is not the task's newest, StoreLostError when the store has lost what was
        saved before, StoreError when it can't be reached (then the states may have been written or not: save again).
        """
        key = self._task(task)
        args: list[Any] = [token, epoch, encode_positions(positions), self._known.get(task, -1)]
        for asset, state in states.items():
            args += (asset, encode_state(state, epoch))
        with self._errors():
            status, detail = self._save(keys=[key, f"{key}:new", f"{key}:old", self._key("controls")], args=args)
        if status == b"fenced" and int(detail) < token:
            raise StoreLostError(f"the store at {self._name} has forgotten who took task {task} of {self._base} last")
        if status == b"fenced":
            raise StoreFencedError(f"task {task} of {self._base} was taken over: token {token} < {int(detail)}")
        if status == b"lost":
            raise StoreLostError(
                f"the store at {self._name} has lost states of task {task}: "
                f"expected epoch {self._known.get(task, 'any')}, found {detail.decode()}"
            )
        self._known[task] = epoch
        return int(detail)

    def controls(self) -> Controls:
        """Return what operators have set."""
        with self._errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._key("controls"))
            for name in ("pins", "resets", "accepts", "rollbacks"):
                pipe.hgetall(self._key(name))
            version, pins, resets, accepts, rollbacks = pipe.execute()
        with self._decoding("the rollbacks"):
            points = {
                asset.decode(): (token.decode(), decode_state(point)[1])
                for asset, value in rollbacks.items()
                for token, _, point in [value.partition(b":")]
            }
        return Controls(
            version=int(version or 0),
            pins={asset.decode(): float(level) for asset, level in pins.items()},
            resets={asset.decode(): token.decode() for asset, token in resets.items()},
            accepts={asset.decode(): token.decode() for asset, token in accepts.items()},
            rollbacks=points,
        )

    def controls_version(self) -> int:
        """Return the count of changes operators made: cheap, for a poll twice a second."""
        with self._errors():
            return int(self._redis.get(self._key("controls")) or 0)

    def pin(self, asset: str, level: float) -> None:
        """Alarm above `level` for this asset until unpinned. Raises ConfigError when it is not finite."""
        if not math.isfinite(level):
            raise ConfigError(f"the pin of {asset} must be a finite number, got {level}")
        with self._errors():
            self._pin(keys=[self._key("pins"), self._key("controls")], args=[asset, repr(float(level))])

    def unpin(self, asset: str) -> bool:
        """Go back to the adaptive level; False when it was not pinned."""
        with self._errors():
            return bool(self._unpin(keys=[self._key("pins"), self._key("controls")], args=[asset]) == 1)

    def reset(self, asset: str) -> None:
        """Forget what was learnt of the asset ("*": of all); its threshold starts from the calibration again."""
        with self._errors():
            self._reset(keys=[self._key("resets"), self._key("controls")], args=[asset])

    def accept(self, asset: str) -> None:
        """Take the asset's open regime change for its new normal; nothing where none was told."""
        with self._errors():
            self._mark(keys=[self._key("accepts"), self._key("controls")], args=[asset, ""])

    def rollback(self, asset: str, point: bytes) -> None:
        """Go back to what an entry of the audit topic says the asset was held against. Raises DecodeError."""
        decode_state(point)  # what can't be read must not reach the workers
        with self._errors():
            self._mark(keys=[self._key("rollbacks"), self._key("controls")], args=[asset, b":" + point])

    def record_verdicts(self, verdicts: Sequence[RecordedVerdict], keep: int) -> None:
        """Keep people's verdicts, of each alert the greatest by `order`, of all the `keep` newest.

        The same again changes nothing.
        """
        for start in range(0, len(verdicts), VERDICTS_AT_ONCE):
            args: list[Any] = [keep]
            for one in verdicts[start : start + VERDICTS_AT_ONCE]:
                args += (one.alert, one.ts_ms, one.partition, one.offset, encode_recorded(one))
            with self._errors():
                self._record(keys=[self._key("verdicts"), self._key("verdicts:times")], args=args)

    def verdicts(self) -> list[RecordedVerdict]:
        """Return the verdicts kept, oldest first."""
        with self._errors():
            kept = self._redis.hgetall(self._key("verdicts"))
        with self._decoding("verdicts"):
            found = [decode_recorded(alert.decode(), value) for alert, value in kept.items()]
        return sorted(found, key=lambda one: (one.ts_ms, one.alert))

    def tasks(self) -> list[int]:
        """Return the tasks that were ever acquired, in order."""
        with self._errors():
            return sorted(int(task) for task in self._redis.smembers(self._key("tasks")))

    def assets(self, task: int | None = None) -> Iterator[tuple[int, str, AssetState]]:
        """Yield task, asset and newest version of every asset (of one task), in parts: never all of them at once.

        The newest version may belong to a commit still on its way. An asset that changes meanwhile comes once or
        twice.
        """
        for each in self.tasks() if task is None else [task]:
            cursor: int | None = None
            while cursor != 0:
                with self._errors():
                    cursor, found = self._redis.hscan(f"{self._task(each)}:new", cursor or 0, count=SCAN_COUNT)
                for name, version in found.items():
                    with self._decoding(f"asset {name.decode()} of task {each}"):
                        state = decode_state(version.partition(b":")[2])[1]
                    yield each, name.decode(), state

    def find(self, asset: str) -> tuple[int, AssetState] | None:
        """Return the asset's task and its newest version; of several tasks, of the one that judged it last."""
        tasks = self.tasks()
        with self._errors(), self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(f"{self._task(task)}:new", asset)
            versions = pipe.execute()
        with self._decoding(f"asset {asset}"):
            found = [
                (task, decode_state(version.partition(b":")[2])[1])
                for task, version in zip(tasks, versions, strict=True)
                if version is not None
            ]
        return max(found, key=lambda item: item[1].judged_ms, default=None)

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    def _key(self, name: str) -> str:
        return f"{self._base}:{name}"

    def _task(self, task: int) -> str:
        return f"{self._base}:task:{task}"

    def _not_allowed(self, what: str) -> str:
        return (
            f"the store at {self._name} doesn't allow its user to {what}; grant it. "
            "`stream-detector check CONFIG --rights` prints the user's ACL"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever the client raises into a StoreError that names the server and what to look at."""
        try:
            yield
        except redis.exceptions.NoPermissionError as error:
            raise StoreAccessError(self._not_allowed(f"do it: {error}")) from error
        except redis.AuthenticationError as error:
            raise StoreAccessError(
                f"the store at {self._name} refused the login: {error}; look at redis.username and redis.password"
            ) from error
        except redis.TimeoutError as error:
            raise StoreError(f"the store at {self._name} did not answer within redis.timeout_ms") from error
        except (redis.ConnectionError, OSError) as error:
            if (refusal := _certificate(error)) is not None:
                raise StoreAccessError(f"the store at {self._name}: {refusal}") from error
            ended = self._name.startswith("rediss://") and "EOF" in str(error)
            hint = "; if it asks clients for certificates, look at redis.cert_file" if ended else ""
            raise StoreError(f"the store at {self._name} can't be reached: {error}{hint}") from error
        except redis.ResponseError as error:
            # Inside a script it is no NOPERM, but a text, and another one in Redis 7.0 than before and after.
            what = "run multi" if "without MULTI" in str(error) else f"do it: {error}"
            if any(words in str(error) for words in ("permission", "user executing the script", "without MULTI")):
                raise StoreAccessError(self._not_allowed(what)) from error
            raise StoreError(f"the store at {self._name} refused: {error}") from error
        except redis.RedisError as error:
            raise StoreError(f"the store at {self._name} refused: {error}") from error

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        try:
            yield
        except (DecodeError, ValueError, KeyError) as error:
            raise StoreError(
                f"what the store at {self._name} holds for {what} under {self._base} can't be read: {error}"
            ) from error


def _tls(config: RedisConfig) -> dict[str, Any]:
    """Return the client's TLS options. Raises ConfigError when a file or a secret can't be read."""
    options: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": config.verify_hostname}
    for key, path in (("ca_file", config.ca_file), ("cert_file", config.cert_file), ("key_file", config.key_file)):
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise ConfigError(f"redis.{key} ({path}) can't be read: {error.strerror}") from error
    if config.ca_file is not None:
        options["ssl_ca_certs"] = str(config.ca_file)
    if config.cert_file is not None:
        options |= {"ssl_certfile": str(config.cert_file), "ssl_keyfile": str(config.key_file or config.cert_file)}
        # Without one an encrypted key is an error, not a question on the terminal.
        options["ssl_password"] = config.key_password.reveal() if config.key_password is not None else ""
    return options


def _certificate(error: BaseException | None) -> str | None:
    """Say which certificate was refused, by whom; None when that is not what went wrong."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    for each in found:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {each.verify_message}; look at redis.ca_file"
    text = " ".join(map(str, found)).upper()
    if "CERTIFICATE" in text or "UNKNOWN_CA" in text:
        return f"it refused this client's certificate, or lacks one ({found[-1]}); look at redis.cert_file"
    return None
