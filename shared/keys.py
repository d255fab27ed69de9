"""Every Redis key, channel, stream, queue and TTL. RQ's own keys start with `rq:` and are RQ's business.

Every name of ours begins with the deployment's, so that fleets can share a server: keys could be told apart by the
number of the database, but channels are global over all databases of a server. Names of queues carry it, too. A
worker's name begins with its host's (`<host>.<model>.<epoch>`), so that a pattern can mean "this host's".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_DEPLOYMENT = "mlxgw"
JOB_FUNCTION = "worker.jobs.run"  # the one function a worker runs

LEASE_TTL_S = 3
LEASE_EVERY_S = 1.0
HOST_TTL_S = 5
GATEWAY_TTL_S = 3
BODY_TTL_S = 3600
RESULT_TTL_S = 60
FAILURE_TTL_S = 600
ENDED_TTL_S = 600
HOME_TTL_S = 3600
WHY_TTL_S = 900
RUN_TTL_S = 3600
RESIDENT_TTL_S = 10
DISK_TTL_S = 24 * 3600
PIECES_TTL_S = 30
SUSPECTS_TTL_S = 24 * 3600
DAY_TTL_S = 7 * 24 * 3600
HEAD_DAY_TTL_S = 12 * 3600
LOG_MAXLEN = 512
LOG_TTL_S = 60

# Fields of RQ's jobs that are ours: whether a worker died while the request was there; the word of the host that its
# body lies for; the gateway that owns it; and, once the job's worker has died, how many jobs it had, and how many of
# them were suspects.
IS_SUSPECT, BODY_AT, ASKED_AT = "suspect", "body_at", "asked_at"
DIED_WITH, DIED_SUSPECTS = "died_with", "died_suspects"

NO_HOST = ""  # in place of a host: what any of them may take


def word(text: str) -> str:
    """A name as it stands in keys: safe in patterns, in RQ's names and between dots."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "x"


def worker_name(host: str, model: str, epoch: str) -> str:
    """Unique per start: `<host>.<model>.<epoch>`."""
    return ".".join(word(text) for text in (host, model, epoch))


def host_of(worker: str) -> str:
    """The word of the host that a worker's name begins with."""
    return worker.partition(".")[0]


def job_id(request_id: str, attempt: int) -> str:
    """RQ's id of an attempt."""
    return f"{request_id}-{attempt}"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one deployment. `host` is the word of a host, `worker` a worker's whole name."""

    deployment: str = DEFAULT_DEPLOYMENT

    def _of(self, *parts: str) -> str:
        return ":".join((self.deployment, *parts))

    # --- who is alive --------------------------------------------------------------------------------------------

    @property
    def workers(self) -> str:
        """Set of worker names that may hold a lease."""
        return self._of("workers")

    @property
    def hosts(self) -> str:
        """Set of hosts' words."""
        return self._of("hosts")

    @property
    def gateways(self) -> str:
        """Set of gateway ids."""
        return self._of("gateways")

    def lease(self, worker: str) -> str:
        """`WorkerLease`, TTL `LEASE_TTL_S` at the most: gone means dead."""
        return self._of("lease", worker)

    def host(self, host: str) -> str:
        """`HostRecord`, TTL `HOST_TTL_S`."""
        return self._of("host", host)

    def gateway(self, gateway: str) -> str:
        """`GatewayRecord`, TTL `GATEWAY_TTL_S`."""
        return self._of("gateway", gateway)

    @property
    def generations(self) -> str:
        """Sealed among gateways: host -> generation of its key, of those whose key is not their first."""
        return self._of("generations")

    def generations_for(self, host: str) -> str:
        """The same, sealed for one host that joined."""
        return self._of("generations", host)

    def host_user(self, host: str) -> str:
        """The Redis user of a host that joined."""
        return f"host:{host}" if self.deployment == DEFAULT_DEPLOYMENT else f"host:{self.deployment}.{host}"

    # --- work ----------------------------------------------------------------------------------------------------

    def queue(self, model: str, lane: str = "") -> str:
        """RQ queue of a model and lane: what any of its workers may take, or what waits until there is one."""
        return f"{self.deployment}:{model}{_lane(lane)}"

    def worker_queue(self, model: str, worker: str, lane: str = "") -> str:
        """RQ queue of one worker and lane (a class, or that of a kind of work), claimed by that worker alone."""
        return f"{self.deployment}:{model}@{worker}{_lane(lane)}"

    def bell(self, worker: str) -> str:
        """List of one entry, rung by whoever puts a job on a queue of the worker. It holds no job."""
        return self._of("bell", worker)

    def placed(self, worker: str) -> str:
        """Hash: job -> what was placed there and is in no lease yet; `v` counts how often something was put here."""
        return self._of("placed", worker)

    def body(self, host: str, request_id: str, attempt: int) -> str:
        """`Envelope`, for the host that it was placed on; `NO_HOST` while it was placed on none."""
        return self.body_of(host, job_id(request_id, attempt))

    def body_of(self, host: str, job: str) -> str:
        """The body of a job, by the job's id."""
        return f"{self.body_prefix(host)}{job}"

    @property
    def bodies(self) -> str:
        """What the keys of all bodies begin with; a host's word follows."""
        return self._of("req", "")

    def body_prefix(self, host: str) -> str:
        """What a body's key begins with; the job's id follows."""
        return self._of("req", host, "")

    def ended(self, request_id: str) -> str:
        """The highest attempt of the request that must not run (any more); looked at when a job is claimed."""
        return self._of("ended", request_id)

    def ended_prefix(self) -> str:
        return self._of("ended", "")

    def run_once(self, job: str) -> str:
        """The worker that took an attempt's job, for as long as the job could live: no other may take it again."""
        return f"{self.run_once_prefix()}{job}"

    def run_once_prefix(self) -> str:
        return self._of("ran", "")

    def home(self, conversation: str) -> str:
        """Worker and turn of a conversation's last move, TTL `HOME_TTL_S`."""
        return self._of("home", conversation)

    def day(self, digest: str) -> str:
        """When a conversation began, or one with its tools and switches, as ISO 8601: for prompts that tell the date.
        TTL `DAY_TTL_S`, of a head `HEAD_DAY_TTL_S`."""
        return self._of("day", digest)

    def why(self, request_id: str) -> str:
        """Hash: job -> why it was placed where it was, and `end` -> what became of that, as JSON; TTL `WHY_TTL_S`."""
        return self._of("why", request_id)

    @property
    def suspects(self) -> str:
        """Hash: `{digest}:lone` -> deaths at which the request was the only suspect, `{digest}:shape` -> its sizes and
        parameters as JSON; TTL `SUSPECTS_TTL_S`."""
        return self._of("suspects")

    def resident(self, worker: str) -> str:
        """Sorted set: tag of a prefix -> tokens, of what the worker has in memory; TTL `RESIDENT_TTL_S`."""
        return self._of("res", worker)

    def soon(self, worker: str) -> str:
        """Sorted set: tag -> expiry, of what was placed there and is not computed yet."""
        return self._of("soon", worker)

    def disk(self, host: str, model: str) -> str:
        """Sorted set: tag -> tokens, of what lies in files of the host; TTL `DISK_TTL_S`."""
        return self._of("disk", host, model)

    def pieces(self, worker: str, gateway: str) -> str:
        """Sealed `Pieces`: what a worker has told a gateway that looked, TTL `PIECES_TTL_S`."""
        return self._of("pieces", worker, gateway)

    def run(self, tenant: str, key: str) -> str:
        """Sealed among gateways: id, gateway and digest of the request that a tenant's clients call by this key (its
        digest), TTL `RUN_TTL_S`."""
        return self._of("run", tenant, key)

    def kept(self, tenant: str, answer: str) -> str:
        """An answer that its client may ask for again, with its conversation."""
        return self._of("kept", tenant, answer)

    def kept_order(self, tenant: str) -> str:
        """List of the ids of a tenant's kept answers, the latest first."""
        return self._of("keptorder", tenant)

    def quota(self, key: str) -> str:
        """Hash: what one key has used of its quota, and what its running requests hold of it."""
        return self._of("quota", key)

    # --- answers and signals -------------------------------------------------------------------------------------

    def gateway_channel(self, gateway: str, host: str) -> str:
        """Frames of one host for one gateway. Who may publish on a channel may also listen to it, so that one channel
        for all hosts would let each of them read what all the others answer."""
        return self._of("gw", gateway, host)

    def worker_channel(self, worker: str) -> str:
        """Sealed messages for one worker: `End`, `Join`, `TakeOver`, `LookAtPieces`."""
        return self._of("to", worker)

    def host_channel(self, host: str) -> str:
        """Orders of a person to one host, such as to unload a model."""
        return self._of("to-host", host)

    @property
    def loads(self) -> str:
        """Channel: a sealed list of models; asks any host that may serve one to load it."""
        return self._of("loads")

    @property
    def fleet(self) -> str:
        """Channel: leases and host records as they are written."""
        return self._of("fleet")

    def frame_log(self, worker: str, gateway: str) -> str:
        """Capped stream of the frames last published by one worker to one gateway: entry id `<seq>-0`, field `f` the
        frame. Worker names are unique per start (they contain the epoch), so ids of two lives never mix."""
        return self._of("log", worker, gateway)


def _lane(lane: str) -> str:
    return f"!{lane}" if lane else ""
