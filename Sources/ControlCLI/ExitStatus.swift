/// How the program ends. The numbers are part of the interface: godwit(1) lists them, and a test compares.
public enum ExitStatus: Int32, CaseIterable, Sendable {
    case success = 0
    /// Nothing below fits.
    case failure = 1
    case notFound = 3
    case exists = 4
    /// Another process or host owns the disk or the store.
    case inUse = 5
    /// Something else is going on with the disk.
    case busy = 6
    case notAttached = 7
    case alreadyAttached = 8
    case readOnly = 9
    case notADisk = 10
    /// The disk or store is of a kind, or the host lacks a feature, that this version can't do with.
    case unsupported = 11
    /// An image or a store is damaged.
    case corrupt = 12
    /// Digests or contents differ from what they have to be.
    case verification = 13
    case noSpace = 14
    case inputOutput = 15
    /// The host's permissions forbid it.
    case permission = 16
    case connection = 20
    case hostKey = 21
    case authentication = 22
    case version = 23
    /// The peer sent what makes no sense.
    case peerProtocol = 24
    case timeout = 25
    /// The far side ended with an error of its own.
    case remote = 26
    /// A freeze or pause ended by itself before the work was done.
    case expired = 30
    /// A hook or another program failed.
    case command = 31
    /// The migration can't reach its downtime limit.
    case notConverged = 32
    /// Something on one of the sides is in the way of a migration; nothing was changed.
    case refused = 33
    /// A disk was handed over and the target has not confirmed it.
    case unconfirmed = 34
    /// A migration failed, and the guest, which it had stopped, could not be started again here.
    case guestDown = 35
    /// The disk is the target's, and its guest could not be started there.
    case guestNotStarted = 36
    case usage = 64
    case configuration = 78
    case interrupted = 130
    case terminated = 143

    /// The name in JSON errors.
    public var name: String { "\(self)" }
}
