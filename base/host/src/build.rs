//! What was built: version and commit.

/// Version of the workspace, such as `0.1.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Short git commit; `unknown` if the program was built outside of a repository (then the environment variable
/// `HALLEY_COMMIT` sets it). In a developer's tree it may be out of date until the branch changes.
pub const COMMIT: &str = env!("HALLEY_COMMIT");

/// Both, as `--version` prints them: `0.1.0 (1a2b3c4)`.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HALLEY_COMMIT"), ")");
