"""What a user reads about security is what the programs do; secrets are kept out of what they say."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream_detector.__main__ import main
from stream_detector.config import Config, KafkaSecurity, OAuthConfig, RedisConfig
from stream_detector.permissions import ROLES, kafka_commands, kafka_permissions
from stream_detector.telemetry.redaction import MARK, RedactingFilter, hide, redacted

ROOT = Path(__file__).parents[1]
SECRET = "s3cret/with spaces+é"


def test_the_documented_rights_are_those_printed(capsys):
    """docs/security.md shows, line by line, what `check configs/secured.yaml --rights` prints."""
    assert 0 == main(["check", str(ROOT / "configs/secured.yaml"), "--rights"])
    printed = capsys.readouterr().out.splitlines()
    documented = (ROOT / "docs/security.md").read_text().splitlines()
    assert [] == [line for line in printed if line not in documented]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_rights(role):
    """Commands name the principal, quote names for the shell and say when a name is a prefix."""
    config = Config.model_validate({"stream": "x", "channels": {"a": {}}, "delivery": "exactly_once"})
    for right in kafka_permissions(config, role):
        (command,) = kafka_commands([right], "User:a b", "broker:9092")
        assert "--allow-principal 'User:a b'" in command
        assert (right.pattern == "prefixed") == command.endswith("--resource-pattern-type prefixed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "SASL_SSL"}, "needs a mechanism"),
        ({"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u"}, "needs username and password"),
        ({"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER"}, "needs oauth"),
        ({"protocol": "SSL", "password": {"env": "X"}}, "password needs protocol SASL_SSL"),
        ({"ca_file": "ca.pem"}, "ca_file needs protocol SSL"),
        ({"protocol": "SSL", "key_file": "k.pem"}, "need cert_file"),
    ],
)
def test_settings_that_would_not_be_used_are_refused(settings, message):
    """Half a login, or a secret that nothing asks for, is an error: its owner believes to be protected."""
    with pytest.raises(ValidationError, match=message):
        KafkaSecurity.model_validate(settings)


@pytest.mark.parametrize(
    "url", ["http://idp.example.com/token", "https://user:sentinel@idp.example.com/", "ftp://localhost/", "https:///x"]
)
def test_a_token_endpoint_is_reached_safely(url):
    """Tokens come over HTTPS, over HTTP from this machine only; a URL with credentials is refused and not shown."""
    with pytest.raises(ValidationError) as error:
        OAuthConfig(token_url=url, client_id="x", client_secret={"env": "X"})
    assert "sentinel" not in error.value.errors(include_input=False)[0]["msg"]


def test_redis_files_need_tls():
    """A certificate for a URL without TLS is refused, and a user without a password."""
    with pytest.raises(ValidationError, match="rediss://"):
        RedisConfig(ca_file="ca.pem")
    with pytest.raises(ValidationError, match="username needs password"):
        RedisConfig(username="detector")


def test_hidden_secrets_are_not_logged():
    """However a library logs a secret (text, repr, bytes, base64, in a traceback), the log shows a mark."""
    secret = hide(SECRET)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    log = logging.getLogger("test.redaction")
    log.propagate = False
    log.addHandler(handler)
    log.warning("as text %s, in %s, %r", secret, {"password": secret}, str(secret).encode())
    log.warning("coded %s", base64.b64encode(SECRET.encode()).decode())
    log.warning("as JSON %s and %s", json.dumps(SECRET), json.dumps(SECRET, ensure_ascii=False))
    log.warning("SaslAuthenticateRequest(auth_bytes=b'anything')")
    log.warning("too few arguments %s %s", secret)
    try:
        raise ValueError(f"with {secret}")
    except ValueError:
        log.exception("failed")
    said = stream.getvalue()
    assert "s3cret" not in said
    assert "anything" not in said
    assert "ValueError" in said
    assert said.count(MARK) >= 5
    assert f"a {MARK}" == redacted(f"a {SECRET}")
    assert repr(MARK) == repr(secret)
