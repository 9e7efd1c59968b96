//! The steps of `cargo xtask test`, as one table.
//!
//! To add a check, add a line. Cargo always builds the whole workspace with one set of features,
//! so that no step builds it a second time.

/// One check: a command that succeeds or fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The word that selects the step on the command line.
    pub(crate) name: &'static str,
    /// What a failure of it means, for the summary.
    pub(crate) checks: &'static str,
    /// Whether the shared servers have to run.
    pub(crate) needs_servers: bool,
    /// The arguments of cargo.
    pub(crate) cargo: &'static [&'static str],
    /// Variables for it.
    pub(crate) env: &'static [(&'static str, &'static str)],
}

/// How long, and with which log, its variables say.
const SOAK: &[&str] = &[
    "test",
    "--workspace",
    "--test",
    "live",
    "--",
    "soak::run::soak",
    "--exact",
    "--nocapture",
];

/// Stands for a folder that no earlier run has used: against new servers, an old log would rightly
/// miss its branches.
pub(crate) const LOG_FOLDER: &str = "{log folder}";

/// Every step, in the order in which they run: what fails quickly comes first.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "format",
        checks: "the code is formatted (`cargo fmt` mends it)",
        needs_servers: false,
        cargo: &["fmt", "--all", "--check"],
        env: &[],
    },
    Step {
        name: "lint",
        checks: "no compiler or clippy warning",
        needs_servers: false,
        cargo: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        env: &[],
    },
    Step {
        name: "docs",
        checks: "every link in the documentation leads somewhere",
        needs_servers: false,
        cargo: &["doc", "--workspace", "--no-deps"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    Step {
        name: "test",
        checks: "every test of every crate, against real servers",
        needs_servers: true,
        cargo: &["test", "--workspace", "--no-fail-fast"],
        env: &[],
    },
    Step {
        name: "crash",
        checks: "a sample of the crash matrix: points × faults, on real servers",
        needs_servers: true,
        cargo: &[
            "test",
            "--workspace",
            "--test",
            "live",
            "--",
            "matrix::run::matrix",
            "--exact",
            "--nocapture",
        ],
        env: &[("UNANIMOUS_CRASH", "sample")],
    },
    Step {
        name: "soak",
        checks: "transfers between three servers while everything is killed and cut off",
        needs_servers: false,
        cargo: SOAK,
        env: &[("UNANIMOUS_SOAK_MINUTES", "0.5")],
    },
    Step {
        name: "soak-postgres",
        checks: "the same with members that share a log in PostgreSQL",
        needs_servers: false,
        cargo: SOAK,
        env: &[
            ("UNANIMOUS_SOAK_MINUTES", "0.4"),
            ("UNANIMOUS_SOAK_LOG", "postgres"),
        ],
    },
    Step {
        name: "soak-mysql",
        checks: "the same with members that share a log in MySQL",
        needs_servers: false,
        cargo: SOAK,
        env: &[
            ("UNANIMOUS_SOAK_MINUTES", "0.4"),
            ("UNANIMOUS_SOAK_LOG", "mysql"),
        ],
    },
    Step {
        name: "examples",
        checks: "every example builds",
        needs_servers: false,
        cargo: &["build", "--workspace", "--examples"],
        env: &[],
    },
    Step {
        name: "transfer",
        checks: "the README's example moves money between two databases",
        needs_servers: true,
        cargo: &["run", "--quiet", "--example", "transfer", "--", LOG_FOLDER],
        env: &[],
    },
    Step {
        name: "recover",
        checks: "the example that recovers at its start, on the log of the one before",
        needs_servers: true,
        cargo: &[
            "run",
            "--quiet",
            "--example",
            "recover_at_start",
            "--",
            LOG_FOLDER,
        ],
        env: &[],
    },
    Step {
        name: "shop",
        checks: "the example over three databases: order, payment, delivery",
        needs_servers: true,
        cargo: &[
            "run",
            "--quiet",
            "--example",
            "order_payment_delivery",
            "--",
            LOG_FOLDER,
        ],
        env: &[],
    },
    Step {
        name: "service",
        checks: "the example of a web service, asked over HTTP",
        needs_servers: true,
        cargo: &[
            "run",
            "--quiet",
            "--example",
            "axum_service",
            "--",
            LOG_FOLDER,
        ],
        env: &[],
    },
    Step {
        name: "members",
        checks: "the example of members that share a log, one killed and one paused",
        needs_servers: true,
        cargo: &["run", "--quiet", "--example", "shared_log"],
        env: &[],
    },
    Step {
        name: "instances",
        checks: "the example of an order service, one of whose two instances is killed",
        needs_servers: true,
        cargo: &["run", "--quiet", "--example", "order_service"],
        env: &[],
    },
    Step {
        name: "resource",
        checks: "the example of a resource of one's own passes the conformance suite",
        needs_servers: false,
        cargo: &["run", "--quiet", "--example", "custom_resource"],
        env: &[],
    },
    Step {
        name: "demo",
        checks: "the story of the demo, every claim of it",
        needs_servers: true,
        cargo: &["run", "--quiet", "--example", "demo"],
        env: &[],
    },
    Step {
        name: "bench",
        checks: "a short benchmark runs, and no money is lost in it; its figures are not judged",
        needs_servers: false,
        cargo: &[
            "test",
            "--workspace",
            "--bench",
            "transfers",
            "--",
            "--short",
        ],
        env: &[],
    },
];
