"""The door's side of joining: what is asked, whether it is granted, and what is noted of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

from gateway.door import messages
from gateway.door.admission import Fleet, after_try, why_not_code, why_not_host, why_not_role, why_not_version
from gateway.door.authority import Authority, certificate_pem, serial_of
from gateway.door.folder import DoorFolder, JoinedHost
from gateway.door.messages import Ask, Grant, Greeting, Hello, Refused, Renewal, decode_line, encode_line, read_message
from gateway.door.users import HostUsers
from shared.errors import ConfigError, GatewayError
from shared.keys import NO_HOST
from shared.membership import GATEWAY
from shared.seal import derive_key

logger = logging.getLogger(__name__)


class Joining:
    """One conversation at a time changes what is noted. `live_names` gives the words of hosts that live, joined or
    not."""

    def __init__(
        self,
        folder: DoorFolder,
        users: HostUsers,
        *,
        door: Authority,
        hosts: Authority,
        secret: bytes,
        deployment: str,
        database: int,
        version: str,
        wire: int,
        live_names: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self._folder = folder
        self._users = users
        self._hosts = hosts
        self._secret = secret
        self._deployment = deployment
        self._database = database
        self._live_names = live_names
        self._fleet = Fleet(version, wire, frozenset())
        self._greeting = encode_line(
            Greeting(protocol=messages.PROTOCOL, version=version, wire=[wire], door_ca=door.pem)
        )
        self._turn = asyncio.Lock()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: JoinedHost | None) -> None:
        """A whole conversation. `host` is who shows a certificate that counts. Raises `ConnectionError` and `OSError`
        when the other side goes."""
        writer.write(self._greeting)
        await writer.drain()
        try:
            line = await reader.readline()
            if not line:
                return  # a first look at our authority
            if host is not None:
                writer.write(encode_line(await self._renew(host, read_message(decode_line(line), Hello))))
                await writer.drain()
                return
            async with self._turn:
                await self._join(reader, writer, read_message(decode_line(line), Ask))
        except Refused as refusal:
            logger.warning("somebody was refused at the door: %s", refusal)
            writer.write(encode_line({"refused": str(refusal)}))
        except GatewayError as error:
            logger.warning("somebody could not be let in: %s", error)
            writer.write(encode_line({"refused": error.message}))
        except ValueError:  # a line beyond the limit
            writer.write(encode_line({"refused": "what came is no message of mlx-gateway"}))
        await writer.drain()

    async def _renew(self, host: JoinedHost, hello: Hello) -> Renewal:
        reason = why_not_version(hello.version, hello.wire, self._fleet)
        if reason:
            raise Refused(reason)
        certificate = self._hosts.issue_host(host.name, hello.request) if hello.request else None
        serial = host.serial if certificate is None else serial_of(certificate)
        with self._folder.locked():
            noted = self._folder.hosts().get(host.name)
            if noted is None or noted.is_revoked:
                raise Refused(f"{host.name} was revoked")
            if (serial, hello.version) != (noted.serial, noted.version):
                self._folder.note(replace(noted, serial=serial, version=hello.version))
        return Renewal(certificate="" if certificate is None else certificate_pem(certificate))

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask) -> None:
        self._check_code(ask.secret, ask.role)
        await self._users.ensure()
        taken = {name for name, host in self._folder.hosts().items() if not host.is_revoked}
        reason = why_not_host(ask, replace(self._fleet, names=taken | await self._live_names()))
        if reason:
            raise Refused(reason)
        host, grant = self._grant(ask)
        before = self._folder.hosts().get(host.name)
        with self._folder.locked():
            self._folder.note(host)
        try:
            await self._users.add(host)
            writer.write(encode_line(grant))
            await writer.drain()
            if decode_line(await reader.readline()) != messages.STORED:
                raise Refused("the other Mac did not say that it kept what it was given")
        except BaseException:
            await self._take_back(host, before)
            raise
        with self._folder.locked():
            invitation = self._folder.invitation()
            if invitation is not None and invitation.secret == ask.secret:
                self._folder.invite(replace(invitation, is_used=True))
        logger.warning("%s %s joined", host.role, host.name)
        writer.write(encode_line(messages.WELCOME))

    def _check_code(self, secret: str, role: str) -> None:
        with self._folder.locked():
            invitation = self._folder.invitation()
            reason = why_not_code(secret, invitation, time.time()) or why_not_role(role, invitation)
            if invitation is not None and (left := after_try(secret, invitation)) != invitation:
                self._folder.invite(left)
        if reason:
            raise Refused(reason)

    def _grant(self, ask: Ask) -> tuple[JoinedHost, Grant]:
        before = self._folder.hosts().get(ask.name)
        generation = before.generation if before is not None else 1
        try:
            certificate = self._hosts.issue_host(ask.name, ask.request)
        except ConfigError as error:
            raise Refused(error.message) from error
        password = secrets.token_urlsafe(32)
        host = JoinedHost(
            name=ask.name,
            generation=generation,
            serial=serial_of(certificate),
            password_digest=sha256(password.encode()).hexdigest(),
            joined_at_s=time.time(),
            version=ask.version,
            role=ask.role,
        )
        grant = Grant(
            host=ask.name,
            generation=generation,
            key=derive_key(self._secret, ask.name, generation).secret.hex(),
            anyone=derive_key(self._secret, NO_HOST).secret.hex(),
            deployment=self._deployment,
            database=self._database,
            user=self._users.name_of(ask.name),
            password=password,
            certificate=certificate_pem(certificate),
            hosts_ca=self._hosts.pem,
            role=ask.role,
            secret=self._secret.decode() if ask.role == GATEWAY else "",
        )
        return host, grant

    async def _take_back(self, host: JoinedHost, before: JoinedHost | None) -> None:
        """It never came to be a member."""
        with self._folder.locked():
            self._folder.forget(host.name, before)
        await self._users.remove(host.name)
