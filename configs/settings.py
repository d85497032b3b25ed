"""The settings of a whole Anabranch: one frozen tree, checked once, read only by `cluster`.

Every field states its unit and what follows from it; what a method or an engine is made with is inherited from where it
is defined. Unknown keys are refused. Secrets are no settings: the broker's come from the environment, or from files
that settings name. What this module does not know: files, the command line, and how anything is built from these
values.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, StringConstraints, create_model, model_validator

from configs.choice import ByKind
from configs.scaling import Scaled, ScaledToZero, Scaling
from learning.feature_options import FeatureOptions
from learning.gate import Gate
from learning.methods import OPTIONS
from learning.options import Count, Dtype, Options, Seed, disagreement
from learning.router_options import RouterOptions
from learning.training_options import TrainingOptions
from serving.access_options import AccessOptions
from serving.decision_options import DecisionOptions
from serving.options import CONVERSATION_MARGIN, MAX_PROMPTS, MOST_PARTS, EngineKnobs, TlsFiles
from serving.tracing_options import TracingOptions

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Cpus = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Section(Options):
    """What all sections share: frozen, closed to unknown keys, exact about types, documented from the docstrings."""


class Base(Section):
    """The frozen base model that every adapter is an addition to."""

    model: str = Field(min_length=1)
    """Folder in the Hugging Face layout, a name that `anabranch base list` shows, or a hub name. A relative folder is
    looked for beside the YAML file, then in the current directory, then in the repository. Another base means that
    adapters and router start anew."""
    dtype: Dtype = "bfloat16"
    """Precision in which the engine holds the weights. float32 makes answers reproducible across batch sizes."""
    chat_template: str | None = None
    """Jinja text that replaces the tokenizer's own chat template; None keeps that one. Part of the fingerprint."""
    terminator: str | None = None
    """Text that ends every completion in training and stops generation; None means the tokenizer's end token."""
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Tokens of prompt and answer together; longer requests are refused, and cache memory grows with it."""


class Stream(Section):
    """Where examples come from."""

    kind: Literal["embedded", "kafka"] = "embedded"
    """embedded: a durable file under `home`, one machine. kafka: a broker, any number of machines."""
    topic: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,200}$")] = "anabranch"
    """Topic of the examples; dead letters go to `<topic>.dead-letters`."""
    partitions: Count = 1
    """Partitions the topic is created with, an upper bound for ingest workers that have work."""
    bootstrap: str | None = None
    """Kafka's `host:port[,host:port]`; needed by kind kafka, meaningless to the embedded stream."""
    group: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "anabranch"
    """Consumer group of the ingest workers; two systems on one topic need two groups."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the broker is spoken to; the SASL kinds take user name and password from the environment."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How the password is shown to the broker; needed by the SASL protocols."""
    sasl_password_file: Path | None = None
    """File that holds the password alone, read at each login, so that it may be exchanged while the system runs; None
    means the environment's, which stays what it was at the start."""
    ssl_cafile: Path | None = None
    """Certificate authority that the broker's certificate must come from; None means the system's. This and the files
    below are PEM, and are read at each connection."""
    ssl_certfile: Path | None = None
    """Our own certificate, where the broker asks for one."""
    ssl_keyfile: Path | None = None
    """The private key of that certificate."""
    ssl_key_password_file: Path | None = None
    """File that holds the password of an encrypted key; None means the environment's, if the key is encrypted."""
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 10_000
    """Milliseconds after which a silent worker loses its partitions to another."""
    max_poll_interval_ms: Annotated[int, Field(ge=1000)] = 300_000
    """Milliseconds a worker may stay away from polling before the broker expels it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "kafka" and not self.bootstrap:
            raise disagreement("bootstrap", "expected host:port because kind is kafka, got nothing; set it")
        if self.kind == "embedded" and self.bootstrap:
            raise disagreement(
                "bootstrap", f"got {self.bootstrap!r}, but kind is embedded; set kind to kafka or leave bootstrap out"
            )
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise disagreement(
                "sasl_mechanism",
                f"expected a mechanism because security_protocol is {self.security_protocol}, got none",
            )
        if self.sasl_mechanism is not None and not self.security_protocol.startswith("SASL"):
            raise disagreement(
                "security_protocol",
                f"expected SASL_PLAINTEXT or SASL_SSL because sasl_mechanism is set, got {self.security_protocol}",
            )
        if self.sasl_password_file is not None and self.sasl_mechanism is None:
            raise disagreement("sasl_password_file", "without a sasl_mechanism no password is shown; set both")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise disagreement("ssl_keyfile", "ssl_certfile and ssl_keyfile belong together; set both or neither")
        if self.ssl_key_password_file is not None and self.ssl_keyfile is None:
            raise disagreement("ssl_key_password_file", "there is no key without an ssl_keyfile; set both or neither")
        if self.kind == "kafka" and self.ssl_cafile and not self.security_protocol.endswith("SSL"):
            raise disagreement(
                "security_protocol",
                f"expected SSL or SASL_SSL because ssl_cafile is set, got {self.security_protocol}: that is plain text",
            )
        if self.session_timeout_ms > self.max_poll_interval_ms:
            raise disagreement(
                "session_timeout_ms",
                f"expected at most max_poll_interval_ms ({self.max_poll_interval_ms}), got {self.session_timeout_ms}",
            )
        return self


class IngestSettings(Section):
    """The workers that poll, validate, spool and turn examples into statistics."""

    workers: Count = 1
    """Workers, each with its share of the partitions; more than partitions leaves some idle."""
    client: Literal["kafka-python", "librdkafka"] = "kafka-python"
    """What reads Kafka: `librdkafka` takes a fraction of the processor time, and needs the package `confluent-kafka`.
    The embedded stream is read by neither."""
    max_record_bytes: Annotated[int, Field(ge=256)] = 1_048_576
    """Bytes above which a record is a dead letter."""
    poll_records: Count = 2_000
    """Records fetched at most by one poll. More are written and committed at once, and cost less each."""
    block_rows: Count = 256
    """Examples folded into one statistics message to the router; fewer means fresher, more means cheaper."""
    spool_limit: Count = 200_000
    """Untrained examples on disk above which a worker pauses its partitions."""
    spool_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30
    """Bytes of untrained examples above which it pauses them; the bound of its disk use. One poll may exceed it."""
    domain_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """Share of a worker's spool, by rows or bytes, that a domain may take while others wait in it. What takes more is
    learned early; where it was rejected, or refused again and again, it is given up as lost, by name. 1 lets one
    domain fill the spool."""
    spool_folder: Path | None = None
    """Folder of the spools, on a disk of the machine that the worker runs on. None: a private one below `/var/tmp`;
    relative: below `home`, for systems of one machine only. What is lost of it is read again from the stream."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of a domain's examples, chosen by a hash of the id, that judges the adapter and is never trained on."""
    num_cpus: Cpus = 1.0
    """CPUs that Ray reserves for each worker."""
    num_gpus: Cpus = 0.0
    """GPUs, or a share of one, that Ray reserves for each worker; needed where features run on cuda."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.spool_bytes < self.max_record_bytes:
            raise disagreement(
                "spool_bytes",
                f"expected at least max_record_bytes ({self.max_record_bytes}), got {self.spool_bytes}: "
                "a spool that one record fills would stop the stream",
            )
        return self


class Closing(Section):
    """When a domain's examples are complete enough to train; an end marker closes it whatever the other ways say."""

    count: Annotated[int, Field(ge=1)] | None = None
    """Examples after which a domain closes; None leaves it to the other ways."""
    quiet_seconds: Seconds | None = 60.0
    """Seconds without a new example of a domain after which it closes; None leaves it to the other ways."""
    settle_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 5.0
    """Seconds after a domain's last record at which an end marker closes it that has come in some partitions only; one
    that has come in all closes it at once. 0 closes it at the first marker, whatever other partitions still hold."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count is None and self.quiet_seconds is None:
            raise disagreement(
                "quiet_seconds", "a domain without an end marker would never close; set count or quiet_seconds"
            )
        return self


class RouterSettings(Section, RouterOptions):
    """The recursive least-squares router."""

    num_cpus: Cpus = 1.0
    """CPUs that Ray reserves for the router."""


class LearnerSection(Section, TrainingOptions):
    """The workers that train the closed domains, whatever their method."""

    workers: ScaledToZero = Scaling(1, 1)
    """Domains trained at the same time: a number, or a range such as `0-4`, in which there are as many workers as there
    are closed domains that wait or are trained."""
    idle_seconds: Seconds = 60.0
    """In a range, seconds after which a worker is ended that was not needed."""
    num_cpus: Cpus = 1.0
    """CPUs that Ray reserves for each worker."""
    num_gpus: Cpus = 0.0
    """GPUs, or a share of one, that Ray reserves for each worker."""
    seed: Seed = 0
    """Seed of every training: its initialisation and its order."""
    checkpoint_bytes: Annotated[int, Field(ge=0)] = 8 << 30
    """Bytes that the checkpoints of all trainings may take in the home, about sixteen for each weight that is trained.
    The oldest goes for a newer one; a training whose own is larger has none, and begins anew where its worker dies."""

    @model_validator(mode="after")
    def _stands_where_it_runs(self) -> Self:
        if self.device.startswith("cpu") != (self.num_gpus == 0):
            raise disagreement(
                "num_gpus",
                f"expected {0 if self.device == 'cpu' else 'a share'} because device is {self.device}, "
                f"got {self.num_gpus}",
            )
        if self.one_lane and self.workers.most != 1:
            raise disagreement(
                "workers",
                f"expected 1 or 0-1 because kind is {self.kind}, which trains one after another, got "
                f"{self.workers.written()}",
            )
        return self


def _learner_section(options: type[TrainingOptions]) -> type[LearnerSection]:
    """A method's options with what the workers of every method have."""
    name = options.__name__.removesuffix("Options") + "Section"
    bases: Any = (options, LearnerSection)
    section: Any = create_model(name, __base__=bases, __module__=__name__, __doc__=options.__doc__)
    return cast(type[LearnerSection], section)


LEARNERS = {kind: _learner_section(options) for kind, options in OPTIONS.items()}
"""The learner's sections by `kind`, one for each of `learning.methods`."""


class RegistrySettings(Section):
    """Where what was learned is kept, and how much history."""

    url: Annotated[str, Field(pattern=r"^(s3|gs|az|file)://[^\s?#@]+$")] | None = None
    """Folder or bucket of an object store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or
    file:///FOLDER. None is a folder below `home`. Credentials and endpoints come from the environment of every node,
    by the names of each cloud's own tools. Nodes keep copies of what they read below
    /var/tmp."""
    keep_snapshots: Count = 2
    """Snapshots of the ledger kept, each with the segment files that it names: how far a person can go back."""
    keep_manifests: Count = 20
    """Manifests kept, with the adapters they name: how many publications long a request may go on with a version that
    was replaced."""
    keep_versions: Count = 3
    """Accepted versions of each domain that are kept before the one in service, and as many before its newest, which
    may serve after a pin's end, however many others were published since: how far a rollback reaches."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keep_manifests < self.keep_snapshots:
            raise disagreement(
                "keep_manifests", f"expected at least keep_snapshots ({self.keep_snapshots}), got {self.keep_manifests}"
            )
        return self


class AccessSettings(Section, AccessOptions):
    """Who is let in at the front door, and for how long."""


class DecisionSettings(Section, DecisionOptions):
    """Which decisions on requests are kept in the registry for a person to look at, and what of their prompts."""


class TracingSettings(Section, TracingOptions):
    """Traces of requests by OpenTelemetry; none unless set."""


class Serving(Section, EngineKnobs):
    """The front door and its replicas, each with an engine of its own."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address the front door listens on; the default lets only this machine in."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port of the front door; 0 takes a free one."""
    tls: TlsFiles = TlsFiles()
    """Certificates to answer by TLS with."""
    replica_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """TCP port on which each replica takes what the front door gives it, on the address of its own node; 0 takes a free
    one. One port for all takes a node for each."""
    replicas: Scaled = Scaling(1, 1)
    """Engines that serve, each holding the whole base model: a number, or a range such as `2-8`, in which there is one
    for each half of `max_num_seqs` requests in flight."""
    idle_seconds: Seconds = 300.0
    """In a range, seconds for which fewer replicas must do before one of them is ended."""
    num_cpus: Cpus = 1.0
    """CPUs that Ray reserves for each replica."""
    num_gpus: Cpus = 0.0
    """GPUs, or a share of one, that Ray reserves for each replica."""
    prepare_timeout_seconds: Seconds = 60.0
    """Seconds a replica has to load a new manifest before it is fenced off."""
    drain_seconds: Seconds = 30.0
    """Seconds a replica that has to change its base waits for the requests in flight, while new ones wait; they are not
    cut off, it is tried again later."""
    finish_seconds: Seconds = 300.0
    """Seconds a replica that leaves, as fewer are wanted or it is fenced, has for the requests in flight; it gets no
    new ones meanwhile, and what is not done by then is cut off."""
    max_prompts: Count = MAX_PROMPTS
    """Prompts or texts in one request; a longer batch is refused, so that nobody's routing waits for it."""
    conversation_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = CONVERSATION_MARGIN
    """By how much a chat's last message must score higher for another domain than for the first message's to take the
    chat there; in the scores' unit, which of `router.head` ridge and inverse_frequency is about 1 from one domain to
    another, of lda nats. More keeps chats in their domain, and in the prefix cache."""
    hosts_layers: bool = False
    """True has the engine's worker compute the router's lower layers, on its device and in its context; False computes
    them in the replica's process, on `features.device`."""
    top_k: Annotated[int, Field(ge=1, le=MOST_PARTS)] = 1
    """Domains that may answer a request for `auto` as one, where their scores lie near each other (within a few times
    `conversation_margin`); 1 leaves it to the best. A request may say its own in `x-anabranch-top-k`."""
    access: AccessSettings = AccessSettings()
    """Keys, origins of pages that may call, and how long a request may take."""
    decisions: DecisionSettings = DecisionSettings()
    """Decisions on requests that are kept for a person to look at; none unless set."""
    tracing: TracingSettings = TracingSettings()
    """Traces of requests; none unless set."""

    @property
    def is_public(self) -> bool:
        """Whether `host` lets in more than this machine."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def keys_required(self) -> bool:
        """Whether a request needs a key."""
        return self.access.keys == "required" or (self.access.keys == "auto" and self.is_public)

    @model_validator(mode="after")
    def _changes_its_base_in_time(self) -> Self:
        if self.drain_seconds >= self.prepare_timeout_seconds:
            raise disagreement(
                "drain_seconds",
                f"expected less than prepare_timeout_seconds ({self.prepare_timeout_seconds:g}), got "
                f"{self.drain_seconds:g}",
            )
        return self


class RaySettings(Section):
    """The Ray cluster underneath."""

    address: str | None = None
    """Cluster to join: auto, or host:port; None starts one on this machine."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs of a cluster started here; None means those of the machine. Must hold all reservations."""
    placement: Literal["pack", "spread"] = "pack"
    """pack keeps actors on few nodes; spread puts replicas on different ones, so that a node's loss costs one."""
    gpu_memory_gib: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Memory of each GPU in GiB, as `nvidia-smi` shows it: an 80 GB card has 79. What can't fit there is refused before
    anything starts; None checks nothing."""
    include_dashboard: bool = False
    """Whether a cluster started here gets Ray's dashboard."""
    object_store_bytes: Annotated[int, Field(ge=80 << 20)] | None = None
    """Shared memory for objects of a cluster started here; None leaves it to Ray."""


class Settings(Section):
    """The whole tree. `name` and `base.model` have no default: without them there is nothing to run."""

    name: Name
    """Name of this system in logs, in Ray and in metrics: lower case, digits, - and _."""
    home: Path = Path("runs/home")
    """Folder of all durable state: registry and embedded stream; relative to the current directory. On several machines
    a shared one."""
    base: Base
    stream: Stream = Stream()
    ingest: IngestSettings = IngestSettings()
    closing: Closing = Closing()
    features: FeatureOptions = FeatureOptions()
    router: RouterSettings = RouterSettings()
    learner: Annotated[LearnerSection, ByKind(LEARNERS, default="lora")] = Field(
        default_factory=lambda: LEARNERS["lora"].model_validate({})
    )
    gate: Gate = Gate()
    registry: RegistrySettings = RegistrySettings()
    serving: Serving = Serving()
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _at_most("learner.rank", self.learner.adapter_rank, "serving.max_lora_rank", self.serving.max_lora_rank)
        if self.features.model is None:
            self._check_features_of_base()
        if self.features.device.startswith("cuda"):
            for path, share in (("ingest.num_gpus", self.ingest.num_gpus), ("serving.num_gpus", self.serving.num_gpus)):
                if share == 0:
                    raise disagreement(
                        path, f"expected a share because features.device is {self.features.device}, got 0"
                    )
        _at_most("learner.max_tokens", self.learner.max_tokens, "base.max_model_len", self.base.max_model_len)
        return self

    def _check_features_of_base(self) -> None:
        deepest = max(self.features.depths(0))
        if deepest > self.learner.frozen_layers:
            raise disagreement(
                "features.layers",
                f"expected depths up to learner.frozen_layers ({self.learner.frozen_layers}), got {deepest}: "
                "the router reads layers that no adapter may change; freeze more layers, read lower ones, or let "
                "another model make the features (features.model)",
            )
        _at_most("features.max_tokens", self.features.max_tokens, "base.max_model_len", self.base.max_model_len)


def _at_most(path: str, value: int, limit_path: str, limit: int) -> None:
    if value > limit:
        raise disagreement(
            path, f"expected at most {limit_path} ({limit}), got {value}; lower the one or raise the other"
        )
