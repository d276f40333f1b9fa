"""fedkd deploy-kit: certificates that verify, keys that nobody else may read, files that say how they are used."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store

from fedkd.base.errors import InputError
from fedkd.cli.deploy_kit import certificates, write_kit


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "superlink.example.org", "10.0.0.7"])
def test_the_certificate_is_good_for_its_hosts_and_no_other(host: str) -> None:
    authority, server, _ = certificates(["localhost", "127.0.0.1", "superlink.example.org", "10.0.0.7"])
    store = Store([x509.load_pem_x509_certificate(authority)])

    def verify(name: str) -> None:
        try:
            subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            subject = x509.DNSName(name)
        PolicyBuilder().store(store).build_server_verifier(subject).verify(x509.load_pem_x509_certificate(server), [])

    verify(host)
    with pytest.raises(x509.verification.VerificationError):
        verify("elsewhere.example.org")


def test_each_node_has_a_key_of_its_own_that_only_its_owner_may_read(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit", 2, "superlink.example.org", 8000, 9094)
    seen = set()
    for number in range(2):
        folder = tmp_path / "kit" / "nodes" / str(number)
        private = load_ssh_private_key((folder / "key").read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp384r1"
        assert private.public_key() == load_ssh_public_key((folder / "key.pub").read_bytes())
        seen.add((folder / "key").read_bytes())
    assert len(seen) == 2
    secret = [path for path in (tmp_path / "kit").rglob("*") if path.name in ("key", "server.key")]
    assert len(secret) == 3
    if os.name != "nt":
        assert {path.stat().st_mode & 0o077 for path in secret} == {0}


def test_what_it_writes_can_be_read_by_what_reads_it(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    write_kit(kit, 3, "10.0.0.7", 8443, 9094)
    assert tomllib.loads((kit / "flower" / "config.toml").read_text())["superlink"]["kit"]["address"] == "10.0.0.7:8443"
    services = yaml.safe_load((kit / "compose.yaml").read_text())["services"]
    assert services.keys() == {"superlink", "node-0", "node-1", "node-2"}
    assert "partition-id=2" in services["node-2"]["command"][-1]
    assert "flwr supernode register nodes/2/key.pub kit" in (kit / "README.md").read_text()
    assert not [path for path in kit.rglob("*") if path.is_file() and b"$" in path.read_bytes()]


@pytest.mark.parametrize("host", ["", "a b", "-x", "host;rm"])
def test_a_host_that_is_none_is_refused_and_nothing_is_written(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--host"):
        write_kit(tmp_path / "kit", 1, host, 8000, 9094)
    assert list(tmp_path.iterdir()) == []
