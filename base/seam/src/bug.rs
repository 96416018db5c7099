//! Bugs that can be planted where a programmer could have made them, to prove that the simulator finds them.

/// A bug on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A fan-out to a room skips one member.
    LostFrame,
    /// The sender of a room message gets its own copy and also the others' copy.
    DoubleDelivery,
    /// A slot counts as free while a write of its last tenant is still in flight.
    EarlySlotReuse,
    /// A consumer that is about to sleep does not look once more.
    LostWake,
    /// A timer that comes up before the real deadline is not set again.
    MissedHeartbeat,
    /// Leaving a room that others are still in is not reported.
    WrongRoomCount,
    /// The older one of two logins of one key stays.
    ReloginRace,
    /// A login is dated by when logic decides it, not by when it came.
    DatedWhenDecided,
    /// The end of an older login removes the session of a newer one.
    UnfencedEnd,
    /// Frames that wait for a connection that breaks are not counted as dropped.
    UncountedDrop,
    /// A connection that waited for the way to the front is not read again.
    ForgottenResume,
    /// Text that comes with the end of a TLS handshake is lost.
    LostEarlyText,
    /// A connection that is handed to another shard goes on there without its TLS.
    ForgottenTls,
    /// What TLS itself has to say is sealed before frames and written behind them.
    SealedOutOfOrder,
}

impl Bug {
    /// Every one of them, with its name on the command line.
    pub const ALL: &'static [(&'static str, Bug)] = &[
        ("lost-frame", Bug::LostFrame),
        ("double-delivery", Bug::DoubleDelivery),
        ("early-slot-reuse", Bug::EarlySlotReuse),
        ("lost-wake", Bug::LostWake),
        ("missed-heartbeat", Bug::MissedHeartbeat),
        ("wrong-room-count", Bug::WrongRoomCount),
        ("relogin-race", Bug::ReloginRace),
        ("dated-when-decided", Bug::DatedWhenDecided),
        ("unfenced-end", Bug::UnfencedEnd),
        ("uncounted-drop", Bug::UncountedDrop),
        ("forgotten-resume", Bug::ForgottenResume),
        ("lost-early-text", Bug::LostEarlyText),
        ("forgotten-tls", Bug::ForgottenTls),
        ("sealed-out-of-order", Bug::SealedOutOfOrder),
    ];
}
