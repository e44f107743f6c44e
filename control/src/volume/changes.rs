//! That something has changed, for those who watch the room there is.

use tokio::sync::watch;

/// Who watches is told here that volumes came, went or grew, those that nobody is told of included.
#[derive(Debug, Clone, Default)]
pub struct Changes(watch::Sender<u64>);

impl Changes {
    /// Something has changed.
    pub fn tell(&self) {
        self.0.send_modify(|changes| *changes += 1);
    }

    /// The changes from now on, counted.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
