"""fedkd deploy-kit: what a SuperLink and its SuperNodes need to trust each other, and the commands that start them."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.base.errors import InputError
from fedkd.cli.filled import write_filled

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: Certificates for a test; a site that runs one for longer has a certificate authority of its own.
DAYS = 90
#: Names that the SuperLink's certificate is always good for: this machine, and compose.yaml's.
ALWAYS = ("localhost", "127.0.0.1", "superlink")


def deploy_kit(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.", show_default=False)],
    nodes: Annotated[int, typer.Option(min=1, max=1000, help="How many SuperNodes, one for each client.")] = 3,
    host: Annotated[str, typer.Option(help="The name or address by which SuperNodes reach the SuperLink.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The SuperLink's port.")] = 8000,
    node_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port of node 0 on its own machine; 1 has the next.")
    ] = 9094,
) -> None:
    """Write certificates, node keys, a compose file and the commands of a deployment over TLS, for the installed Flower."""
    write_kit(place, nodes, host, port, node_port)
    print(f"{place}: certificates for {DAYS} days, keys of {nodes} SuperNodes, compose.yaml.")
    print(f"{place / 'README.md'} has the commands. The private keys are in {place / 'superlink'} and {place / 'nodes'}.")


def write_kit(place: Path, nodes: int, host: str, port: int, node_port: int) -> None:
    """Write the kit into a new directory.

    Raises:
        InputError: a host that is no name and no address, or a directory that is there already or cannot be made.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", host):
        raise InputError(f"--host: {host!r} is no name and no address of a machine: e.g. superlink.example.org")
    authority, server, server_key = certificates([*ALWAYS, host])
    contents = {"superlink/ca.crt": authority, "superlink/server.crt": server, "superlink/server.key": server_key}
    numbers = range(nodes)
    for number in numbers:
        private, public = node_keys(f"fedkd-node-{number}")
        contents |= {f"nodes/{number}/key": private, f"nodes/{number}/key.pub": public, f"nodes/{number}/ca.crt": authority}
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    here = place.resolve()
    words = {
        "flwr": version("flwr"),
        "fedkd": version("fedkd"),
        "address": address,
        "bound": "127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0",
        "port": str(port),
        "place": str(here),
        "days": str(DAYS),
        "nodes": str(nodes),
        "registrations": "\n".join(f"    flwr supernode register nodes/{number}/key.pub kit" for number in numbers),
        "starts": "\n".join(_start(number, address, node_port + number) for number in numbers),
        "services": "".join(_service(number) for number in numbers),
        "volumes": "\n".join(f"  memory-{number}:" for number in numbers),
    }
    templates = {
        "README.md.txt": "README.md",
        "compose.yaml.txt": "compose.yaml",
        "Dockerfile.txt": "Dockerfile",
        "config.toml.txt": "flower/config.toml",
    }
    write_filled("kit", templates, words, place, contents=contents, private=[name for name in contents if name.endswith("key")])


def _start(number: int, address: str, port: int) -> str:
    return (
        f"    fedkd supernode --superlink {address} --root-certificates nodes/{number}/ca.crt \\\n"
        f"        --auth-supernode-private-key nodes/{number}/key --port {port} \\\n"
        f"        --node-config \"partition-id={number} memory-path='memory/{number}'\""
    )


def _service(number: int) -> str:
    config = f"partition-id={number} memory-path='/memory'"
    command = "[fedkd, supernode, --superlink, 'superlink:8000', --root-certificates, /kit/ca.crt"
    command += f', --auth-supernode-private-key, /kit/key, --node-config, "{config}"]'
    mounted = f'["./nodes/{number}:/kit:ro", "memory-{number}:/memory"]'
    lines = ("build: .", f"command: {command}", f"volumes: {mounted}", "depends_on: [superlink]", "restart: on-failure")
    return "\n".join([f"\n  node-{number}:", *(f"    {line}" for line in lines), ""])


def certificates(hosts: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    """A certificate authority's certificate, a server's that it signed for these hosts, and the server's key; all PEM.

    The authority's own key is thrown away: nobody, not even who made the kit, can sign another server with it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def begun(name: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("fedkd test authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
        )

    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = (
        begun("fedkd test authority", authority_key.public_key())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    server = (
        begun("SuperLink", server_key.public_key())
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
    return authority.public_bytes(pem), server.public_bytes(pem), key


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(digital_signature=True, key_cert_sign=signs, crl_sign=signs, **dict.fromkeys(others, False))


def _alternative(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def node_keys(comment: str) -> tuple[bytes, bytes]:
    """A SuperNode's private and public key, as OpenSSH writes them: what Flower's node authentication reads."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + f" {comment}\n".encode()
