internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// Changes of the stack: the driver's part and the descriptor's, in the order that a crash forgives.
extension KernelDisk {
    // MARK: a new top

    func prepareSnapshot() throws(DiskError) -> any PreparedSwitch {
        try begin(.prepare)
        do throws(DiskError) {
            cancelJob()
            // A merge that yields does not end, but has no job any more.
            let isFree: Bool? = state.wait(until: SystemTime().monotonic() + Self.yieldNanoseconds) { state in
                state.activities.hasRoom(for: .prepare) ? true : nil
            }
            if isFree == nil {
                throw DiskError(.busy, "\(held.path): the driver does not end its merge", path: held.path)
            }
            let top = try held.makeTop()
            state.change { $0.activities.turn(.prepare, into: .prepared) }
            return Switch(disk: self, top: top)
        } catch {
            end(.prepare)
            throw error
        }
    }

    private static let yieldNanoseconds: UInt64 = 60_000_000_000

    private final class Switch: PreparedSwitch {
        private let disk: KernelDisk
        private let top: HeldDisk.NewTop
        init(disk: KernelDisk, top: HeldDisk.NewTop) {
            self.disk = disk
            self.top = top
        }

        func commit() throws(DiskError) -> CommittedSnapshot {
            let descriptor: OwnedDescriptor
            do throws(SystemError) { descriptor = try openDescriptor(top.path, writable: true) } catch {
                throw DiskError(error, path: top.path)
            }
            let item = SnapshotItem(device: disk.device, newTop: descriptor.number)
            var nanoseconds: UInt64 = 0
            try disk.held.commitTop(
                top,
                isSwitched: { () throws(DiskError) in
                    try disk.stackFiles().last?.isSame(as: top.path) == true
                }
            ) { () throws(DiskError) in
                let start = SystemTime().monotonic()
                // Who asks has frozen what is mounted, over all disks of a guest at once.
                try disk.asking { () throws(DriverError) in try disk.driver.snapshot([item], freezesFor: nil) }
                nanoseconds = SystemTime().elapsed(since: start)
            }
            withExtendedLifetime(descriptor) {}
            disk.end(.prepared)
            return CommittedSnapshot(guid: top.guid, switchNanoseconds: nanoseconds)
        }

        func abandon() {
            disk.held.abandonTop(top)
            disk.end(.prepared)
        }
    }

    // MARK: deleting a state

    func deleteSnapshot(_ guid: String, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool {
        try begin(.merge)
        defer { end(.merge) }
        var next: String? = guid
        while let current = next {
            try awaitTurn()
            switch try held.beginDeletion(of: current) {
            case .done(let survivor): next = survivor
            case .merge(let pending):
                switch try merge(pending, progress) {
                case .done: next = try held.finishDeletion(pending)
                // What is above the state may be another file by now.
                case .yielded: continue
                case .stopped: return false
                }
            }
        }
        return true
    }

    /// Waits until no snapshot is on its way.
    private func awaitTurn() throws(DiskError) {
        let mayGo: Bool? = state.wait(until: nil) { state in
            if state.isClosing { return false }
            return state.isPreparing ? nil : true
        }
        if mayGo == false { throw DiskError(.busy, "\(held.path) is being closed", path: held.path) }
    }

    private enum MergeEnd { case done, yielded, stopped }

    private func merge(
        _ pending: borrowing HeldDisk.PendingMerge, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> MergeEnd {
        let files = try stackFiles()
        guard let level = files.firstIndex(where: { $0.isSame(as: pending.child) }), level > 0,
            files[level - 1].isSame(as: pending.parent)
        else {
            throw DiskError(
                .invalid, "\(held.path): the driver has other files than the descriptor names; detach the disk",
                path: held.path)
        }
        var isStopped = false
        let status: JobStatus
        do throws(DiskError) {
            status = try run(.merge(level: level)) { done, total in
                if !progress(done, total) { isStopped = true }
                return !isStopped
            }
        } catch {
            // A snapshot was faster than the start of the job.
            guard error.code == .busy, state.withLock({ $0.isPreparing || $0.isClosing }) else { throw error }
            return .yielded
        }
        guard status.state == .cancelled else {
            try check(status, "merge")
            return .done
        }
        return isStopped || state.withLock({ $0.isClosing }) ? .stopped : .yielded
    }

    func stackFiles() throws(DiskError) -> [String] {
        do throws(SystemError) { return try AttachedStack.of(device)?.files ?? [] } catch {
            throw DiskError(error, path: held.path)
        }
    }

    // MARK: size

    func grow(to bytes: UInt64) throws(DiskError) {
        try begin(.grow)
        defer { end(.grow) }
        let status = try asking { () throws(DriverError) in try driver.status(of: device) }
        guard !isReadOnly else {
            throw DiskError(.readOnly, "\(held.path) is open for reading only", path: held.path)
        }
        guard bytes >= status.deviceBytes else {
            throw DiskError(.invalid, "\(held.path): a disk can't be made smaller", path: held.path)
        }
        let (sum, overflow) = bytes.addingReportingOverflow(status.clusterBytes - 1)
        guard !overflow else { throw DiskError(.invalid, "\(held.path): \(bytes) bytes are too many", path: held.path) }
        let whole = sum & ~(status.clusterBytes - 1)
        guard whole > status.deviceBytes else { return try held.setByteCount(whole) }
        try held.grow(to: whole) { () throws(DiskError) in
            try check(try run(.grow(bytes: whole)) { _, _ in true }, "grow")
        }
    }

    func compact(bytesPerSecond: UInt64, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool {
        try begin(.compact)
        defer { end(.compact) }
        try held.proveOwned()
        while true {
            try awaitTurn()
            var isStopped = false
            let status: JobStatus
            do throws(DiskError) {
                status = try run(.compact, bytesPerSecond: bytesPerSecond) { done, total in
                    if !progress(done, total) { isStopped = true }
                    return !isStopped
                }
            } catch {
                // A snapshot was faster than the start of the job.
                guard error.code == .busy, state.withLock({ $0.isPreparing }) else { throw error }
                continue
            }
            guard status.state == .cancelled else {
                try check(status, "compact")
                return true
            }
            if isStopped || state.withLock({ $0.isClosing }) { return false }
        }
    }

    private func check(_ status: JobStatus, _ what: String) throws(DiskError) {
        if let error = DriverError(status, what, device) { throw DiskError(error, path: held.path) }
    }
}
