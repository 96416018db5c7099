//! What is exchanged when its files have changed.

use std::{fmt, sync::Arc};

use config::ConfigError;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::shutdown::Reload;

/// A value made of files. Clones are the same value.
pub struct Current<T>(Arc<watch::Sender<Arc<T>>>);

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Current(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Current<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(..)")
    }
}

impl<T: Send + Sync + 'static> Current<T> {
    /// The first.
    pub fn new(value: T) -> Current<T> {
        Current(Arc::new(watch::Sender::new(Arc::new(value))))
    }

    /// The one of now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Reads `what` anew with each request of `reload`, on a thread that nobody waits for. What cannot be read changes
    /// nothing and is logged. Needs a tokio runtime.
    pub fn follow(
        &self,
        reload: &Reload,
        what: &'static str,
        read: impl Fn() -> Result<T, Vec<ConfigError>> + Send + Sync + 'static,
    ) {
        let (current, read, mut asked) = (self.clone(), Arc::new(read), reload.listen());
        tokio::spawn(async move {
            while asked.changed().await.is_ok() {
                let read = Arc::clone(&read);
                match tokio::task::spawn_blocking(move || read()).await {
                    Ok(Ok(value)) => {
                        current.0.send_replace(Arc::new(value));
                        info!("the {what} was read anew");
                    }
                    Ok(Err(errors)) => errors.iter().for_each(|error| warn!("the old {what} stays: {error}")),
                    Err(error) => warn!("the old {what} stays: {error}"),
                }
            }
        });
    }
}
