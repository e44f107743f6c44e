//! The gRPC services. Handlers translate; they do not decide.

mod lv;
mod own;
mod vg;

use std::sync::Arc;

use crate::daemon::Daemon;

/// `proto.LVService`.
pub struct LvService(pub Arc<Daemon>);
/// `proto.VGService`.
pub struct VgService(pub Arc<Daemon>);
/// `ringback.v1.Ringback`.
pub struct OwnService(pub Arc<Daemon>);
