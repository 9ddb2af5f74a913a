internal import DiskImage
internal import LinuxSystem
internal import Synchronization

/// The abort of a device's writes while its disk is given away. A device that nobody took over must not stay without
/// writes, also where a job of the driver, which ends soon on an aborted device, keeps the abort from being lifted at
/// once.
final class DeviceAbort: Sendable {
    private let path: String
    private let set: @Sendable (Bool) throws(DiskError) -> Void
    /// How often it was begun: what is lifted late must not be a later one.
    private let begun = Mutex(0)
    private static let triesMax = 20
    private static let roundsMax = 600
    private static let pauseNanoseconds: UInt64 = 50_000_000

    /// - Parameters:
    ///   - path: the disk's, for messages.
    ///   - set: begins or lifts it; `.busy` when it can be lifted later.
    init(path: String, set: @escaping @Sendable (Bool) throws(DiskError) -> Void) {
        self.path = path
        self.set = set
    }

    func begin() throws(DiskError) {
        try begun.withLock { begun throws(DiskError) in
            begun += 1
            try set(true)
        }
    }

    /// Within a second, or else on a thread of its own: whoever waits for this holds the pause's lock, which the
    /// owner's status needs.
    func lift() {
        let number = begun.withLock { $0 }
        guard !isOver(number) else { return }
        do throws(SystemError) {
            _ = try OwnThread(name: "lift-abort") { [self] in
                for _ in 0..<Self.roundsMax where isOver(number) { return }
                tell("the driver is busy")
            }
        } catch {
            tell("\(error)")
        }
    }

    /// Whether nothing is left to do, after some tries.
    private func isOver(_ number: Int) -> Bool {
        for attempt in 1...Self.triesMax {
            let failure: DiskError? = begun.withLock { begun in
                guard begun == number else { return nil }
                do throws(DiskError) {
                    try set(false)
                    return nil
                } catch { return error }
            }
            guard let failure else { return true }
            guard failure.code == .busy else {
                tell(failure.message)
                return true
            }
            if attempt < Self.triesMax { pauseThread(nanoseconds: Self.pauseNanoseconds) }
        }
        return false
    }

    private func tell(_ why: String) { FaultLog().say("\(path): writes fail until the device is detached: \(why)") }
}
