internal import AgentAPI
internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

extension DeviceAttachments {
    private static let exitMilliseconds = 5_000
    /// For a server that answers: it may have much to write.
    private static let closeMilliseconds = 60_000

    /// Unmounts, flushes, closes the disk and ends its server. Also clears up after a server that died.
    /// - Parameter isForced: whoever uses the disk is cut off: NBD clients, and what has its device open or mounted.
    /// - Throws: `.busy` when somebody uses it; then it is as it was, but for what could be unmounted. `.timeout` when
    ///   its server does not answer: it is ended then, unless what it serves is a block device and nothing is forced.
    public func detach(_ disk: String, isForced: Bool = false) throws(AgentError) {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        guard let owned = try ownedOrGone(entry), let server = try owned.server.handle() else {
            guard let record = try entry.load() else {
                try refuseUnrecorded(disk)
                _ = try settled(nil, entry)
                entry.remove()
                throw AgentError(.notAttached, "\(disk) is not attached")
            }
            try clearUp(entry, record, isForced: isForced)
            return
        }
        let silence = ServerSign(controlSocket: owned.controlSocket).silence()
        if let silence {
            guard isForced || owned.device == nil else {
                throw AgentError(
                    .timeout,
                    "\(owned.disk): \(silence). End it with --force when waiting is no use: "
                        + "what is not flushed is lost")
            }
            // Requests to the device would wait for a server that does not answer.
            try withAgentError { () throws(SystemError) in _ = try server.stop(graceMilliseconds: 0) }
        }
        if silence == nil, !isForced { try refuseWhileMigrated(owned) }
        // Its record goes with it: that there is no space to change it is in nobody's way.
        guard var record = try settled(owned, entry, keepsRecord: false) else { return }
        record = try removeDevice(record, entry, isForced: isForced, keepsRecord: false)
        let closing = silence ?? close(record, isForced: isForced)
        if let closing, closing.code == .busy, !isForced || record.backend == .kernel {
            // It stays, and its record must not name a device that may be another disk's soon.
            try entry.store(record)
            throw closing
        }
        try withAgentError { () throws(SystemError) in
            if closing == nil, try server.waitForEnd(deadlineMilliseconds: Self.exitMilliseconds) { return }
            let mayTake = closing == nil || closing?.code == .timeout ? Self.exitMilliseconds : Self.closeMilliseconds
            try server.stop(graceMilliseconds: mayTake)
        }
        entry.remove()
        if let closing, closing.code != .notAttached {
            throw AgentError(
                closing.code,
                "\(record.disk) was not closed properly, and is repaired when it is attached again: \(closing)")
        }
    }

    /// It would be unmounted, and its guest cut off, before its server could say so.
    private func refuseWhileMigrated(_ owned: AttachedDisk) throws(AgentError) {
        let status = try? ControlClient.connect(owned.controlSocket, silenceMilliseconds: ServerSign.milliseconds)
            .status()
        guard status?.isTracked == true else { return }
        throw AgentError(
            .busy, "a migration of \(owned.disk) is under way: wait for its end, or stop it")
    }

    /// Nobody is on record as this disk's server, which tells of nobody's death: the record may be lost, and what it
    /// serves in use.
    /// - Throws: `.inUse` when somebody has the disk.
    func refuseUnrecorded(_ disk: String) throws(AgentError) {
        let files = LinuxFileSystem()
        guard let owners = (try? DiskLocation.find(disk, in: files))?.owners(in: files) else { return }
        // One that makes a copy, or merges, is waited for or told of by who opens the disk.
        let server = owners.first { isServer($0.process) }
        guard owners.isEmpty || server != nil else { return }
        guard let server else {
            throw AgentError(
                .inUse, "\(disk) is used by a process that can't be seen from here, in a container or on another host")
        }
        throw AgentError(
            .inUse,
            "\(disk) is used by \(server), of which \(runFolder) knows nothing: detach it with the GODWIT_RUN_DIR "
                + "that it was attached with; or send it SIGTERM, at which a server closes the disk and ends")
    }

    /// Whether it serves a disk; true of one of another view of processes, which can't be looked at.
    private func isServer(_ process: Int32) -> Bool {
        guard process > 0 else { return true }
        let words = (try? kernelText("/proc/\(process)/cmdline")).flatMap({ $0 })?.parts(between: "\0") ?? []
        return words.contains { [DiskServerArguments.command, KernelOwnerArguments.command].hasSame(as: $0) }
    }

    private func close(_ record: AttachedDisk, isForced: Bool) -> AgentError? {
        do throws(ControlError) {
            try ControlClient.connect(record.controlSocket).perform(isForced ? .shutdownForced : .shutdown)
            return nil
        } catch {
            return AgentError(error)
        }
    }

    /// Like ``live(_:)``, but a disk that has moved to another host gets no new owner for its device.
    private func ownedOrGone(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        do throws(AgentError) { return try live(entry) } catch {
            guard let record = try entry.load(),
                (try? LinuxFileSystem().exists("\(record.disk)/\(DiskFolder.migratedMarkName)")) == true
            else { throw error }
            return nil
        }
    }

    /// Whether a device on record is the disk's still, as far as the driver tells.
    private func isServedStill(_ record: AttachedDisk) throws(AgentError) -> Bool {
        guard record.backend == .kernel else { return true }
        return try isDeviceLeft(record)
    }

    /// Undoes what a dead server left: mounts and devices on it, its files.
    func clearUp(_ entry: RunEntry, _ record: AttachedDisk, isForced: Bool = false) throws(AgentError) {
        let isGone = try !isServedStill(record)
        if let device = record.device {
            // The driver gives the number of a device that is gone to the next disk, whose mounts are not ours.
            if !isGone { try BlockDeviceMaker(entry: entry).remove(device, serverIsDead: true, isForced: isForced) }
        } else {
            _ = try settled(record, entry, keepsRecord: false)
        }
        if let index = record.driverDevice, !isGone {
            do throws(DriverError) { try Driver().detach(index, force: true) } catch {
                throw AgentError(error.code == .busy ? .busy : .io, error.message)
            }
        }
        entry.remove()
    }

    /// Takes away what a command that was killed had begun to make of a disk that has no block device. The caller holds
    /// the entry's lock.
    /// - Parameter record: the disk's, if it has one.
    /// - Returns: the record as it is then.
    func settled(
        _ record: AttachedDisk?, _ entry: RunEntry, keepsRecord: Bool = true
    ) throws(AgentError) -> AttachedDisk? {
        guard record?.device == nil else { return record }
        // Without a record nobody knows.
        let isDead = try record.map { record throws(AgentError) in try record.server.handle() == nil } ?? false
        try BlockDeviceMaker(entry: entry).removeRemains(record, serverIsDead: isDead)
        guard var record, record.intended != nil else { return record }
        record.intended = nil
        do throws(AgentError) { try entry.store(record) } catch { if keepsRecord { throw error } }
        return record
    }

    /// With the entry's lock held.
    /// - Parameter keepsRecord: whether it matters that the change is on record, as the record stays.
    /// - Returns: the record as it is then.
    @discardableResult
    func removeDevice(
        _ record: AttachedDisk, _ entry: RunEntry, isForced: Bool, keepsRecord: Bool = true
    ) throws(AgentError) -> AttachedDisk {
        guard let device = record.device else { return record }
        let isDead = try record.server.handle() == nil
        if try isServedStill(record) {
            try BlockDeviceMaker(entry: entry).remove(device, serverIsDead: isDead, isForced: isForced)
        }
        var record = record
        if record.backend == .kernel { record.device?.partitionPath = nil } else { record.device = nil }
        record.mountpoint = nil
        do throws(AgentError) { try entry.store(record) } catch { if keepsRecord { throw error } }
        return record
    }
}
