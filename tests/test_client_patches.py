"""What is done about the inside of kafka-python: one module does it, of a known version, and it is needed still.

Tests named in that module's `Gone when` fail on the day the client no longer lacks something: then the function can go.
What only a broker can show is in tests/contracts.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.net.sasl import get_sasl_mechanism
from kafka.net.sasl.plain import SaslMechanismPlain
from kafka.producer.transaction_manager import TransactionManager, TransactionState
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from stream_detector.adapters.kafka import client_patches
from stream_detector.errors import ConfigError

ROOT = Path(__file__).parents[1]
ADAPTER = ROOT / "stream_detector" / "adapters" / "kafka"
#: What the client documents for its users.
PUBLIC = {
    "kafka",
    "kafka.admin",
    "kafka.coordinator.assignors.abstract",
    "kafka.coordinator.assignors.range",
    "kafka.errors",
    "kafka.net.sasl.oauth",
    "kafka.structs",
}
OTHERS = sorted(set(ADAPTER.glob("*.py")))


# One module, one version ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.0.12", "3.0.13", "3.0.12.post1"])
def test_releases_of_the_known_minor_version_are_taken(version):
    """From the known release on."""
    client_patches.require_version(version)


@pytest.mark.parametrize("version", ["3.0.11", "2.3.3", "3.1.0", "4.0.12", "3.1", "unknown"])
def test_another_version_is_a_configuration_error(version):
    """It names what is installed, what is known, and the command that installs it."""
    with pytest.raises(ConfigError, match=rf"kafka-python {re.escape(version)} is .* 'kafka-python~=3\.0\.12'"):
        client_patches.require_version(version)


def test_a_program_ends_at_once_on_another_version():
    """With exit status 2 and one line, before it connects anywhere."""
    code = (
        "import sys, kafka.version; kafka.version.__version__ = '3.1.0'; from stream_detector.__main__ import main; "
        "sys.exit(main(['monitor', 'configs/machine.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r".*kafka-python 3\.1\.0 is installed.*\n", done.stderr)


def _dependencies() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_the_package_requires_the_version_it_knows():
    """What pip installs is what `require_version` takes."""
    known = ".".join(map(str, client_patches.VERSION))
    assert [f"kafka-python~={known}"] == [one for one in _dependencies() if one.startswith("kafka-python")]


def test_a_plain_install_brings_every_codec():
    """What the client's extras name for its codecs: it can use no other packages."""
    wanted = {re.split(r"[<>=~ ]", one)[0] for one in _dependencies()}
    extras = [one.split("; extra == ") for one in metadata.requires("kafka-python") or []]
    codecs = {name for name, *extra in extras if extra and extra[0].strip("'\"") in ("lz4", "snappy", "zstd")}
    assert {"lz4", "python-snappy", "zstandard"} == codecs
    assert codecs <= wanted


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_other_modules_use_public_names_only(path):
    """They import what the client documents, and read no private attribute of anything but themselves."""
    tree = ast.parse(path.read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [one.name for one in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.partition(".")[0] == "kafka"
    }
    private = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and node.attr not in ("__name__", "_replace")  # of a named tuple, that is public
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert (set(), []) == (imported - PUBLIC, private)


def test_each_patch_says_what_is_lacking_and_when_it_can_go():
    """And a test that it names exists."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    patches = [
        one
        for name, one in vars(client_patches).items()
        if getattr(one, "__module__", "") == client_patches.__name__
        and inspect.getdoc(one)
        and name not in ("require_version",)
        and not name.startswith("_")
    ]
    assert len(patches) > 10
    for patch in patches:
        text = inspect.getdoc(patch)
        assert re.search(r"^Lacks: .+^Gone when: ", text, re.MULTILINE | re.DOTALL), patch
        for named in re.findall(r"\btest_\w+", text):
            assert f"def {named}(" in tests or (ROOT / "tests" / "integration" / f"{named}.py").exists(), named


# What the client lacks --------------------------------------------------------------------------------------------


def batch_with_header(name: bytes) -> DefaultRecordBatch:
    """A batch as a broker sends it, of one record with a header of this name of three bytes."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=999,
    )
    builder.append(0, 1, b"key", b"value", [("abc", b"x")])
    return DefaultRecordBatch(bytes(builder.build()).replace(b"abc", name))


def test_a_header_name_of_any_bytes():
    """The client can't read the record; patched, it can, and reads others as before."""
    batch = batch_with_header(b"a\xffc")
    batch._maybe_uncompress()
    with pytest.raises(UnicodeDecodeError):
        client_patches._strict(batch)
    assert [("a\\xffc", b"x")] == next(iter(batch_with_header(b"a\xffc"))).headers
    assert [("abc", b"x")] == next(iter(batch_with_header(b"abc"))).headers


class Broken(DefaultRecordBatch):
    """A batch that a codec's library fails on."""

    __slots__ = ()

    def _maybe_uncompress(self):
        raise RuntimeError("table overflow")


def test_a_poll_after_an_undecodable_batch_returns():
    """The client keeps what it fetched, and asks it for records without end; patched, the place is named and free."""

    def fetched():
        batches = iter([Broken(bytes(batch_with_header(b"abc")._buffer))])
        records = SimpleNamespace(next_batch=lambda: next(batches, None))
        return Fetcher.PartitionRecords(7, TopicPartition("in", 3), records)

    part = fetched()
    with pytest.raises(RuntimeError, match="table overflow"):
        client_patches._take(part, 10)
    assert (True, []) == (bool(part), client_patches._take(part, 10))  # a poll goes on while it is true
    part = fetched()
    with pytest.raises(client_patches.UndecodableError, match=r"in\[3\] at offset 7: table overflow"):
        part.take(10)
    assert not part


def test_refused_offsets_are_kept():
    """The client keeps them when a transaction ends; patched, the next one begins without."""
    manager = TransactionManager("id")
    manager._pending_txn_offset_commits[TopicPartition("in", 0)] = 3
    manager._current_state = TransactionState.ABORTING_TRANSACTION
    manager._complete_transaction()
    assert manager._pending_txn_offset_commits
    client_patches.begin_transaction(
        SimpleNamespace(_transaction_manager=manager, begin_transaction=manager.begin_transaction)
    )
    assert ({}, TransactionState.IN_TRANSACTION) == (manager._pending_txn_offset_commits, manager._current_state)


def test_a_password_is_a_text():
    """The client uses what it is given as it is; patched, it calls it at each login."""
    settings = {"sasl_plain_username": "u", "sasl_plain_password": lambda: "secret"}
    with pytest.raises(TypeError):
        SaslMechanismPlain(**settings).auth_bytes()
    assert get_sasl_mechanism("PLAIN")(**settings).auth_bytes() == b"u\0u\0secret"
    assert get_sasl_mechanism("PLAIN")(**(settings | {"sasl_plain_password": "text"})).auth_bytes() == b"u\0u\0text"


def test_transactions_have_no_time_limit():
    """Of the client's methods none takes one."""
    for method in (
        KafkaProducer.send_offsets_to_transaction,
        KafkaProducer.commit_transaction,
        KafkaProducer.abort_transaction,
    ):
        assert not [name for name in inspect.signature(method).parameters if "timeout" in name]


def test_permissions_that_are_left_out():
    """The client takes a set of all bits for operations that it must know; patched, it leaves them alone."""
    admin = object.__new__(KafkaAdminClient)
    with pytest.raises(ValueError, match="ACLOperation"):
        admin._process_acl_operations({"authorized_operations": set(range(32))})
    client_patches.ignore_permissions(admin)
    described = {"authorized_operations": set(range(32))}
    assert described == admin._process_acl_operations(described)
