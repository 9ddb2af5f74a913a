import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

/// What is read does not change: readers and changers of files below the top exclude each other.
@Suite struct DiskLeaseTests {
    private let fs = SimulatedFileSystem()
    private let size = 8 * ClusterSize.smallest.bytes

    private func newDisk(_ states: Int) throws -> (Disk, [String]) {
        try createDisk(at: "/disk", options: CreateOptions(byteCount: size, clusterSize: .smallest), in: fs)
        var options = DiskOptions.standard
        options.finishInBackground = false
        let disk = try Disk.open("/disk", in: fs, options: options)
        var guids: [String] = []
        for index in 0..<states {
            try write(disk, UInt8(index + 1))
            guids.append(try disk.commitSnapshot(try disk.prepareSnapshot()).guid)
        }
        try write(disk, UInt8(states + 1))
        try disk.flush()
        return (disk, guids)
    }

    private func write(_ disk: Disk, _ byte: UInt8) throws {
        try [UInt8](repeating: byte, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) }
    }

    private func open(_ guid: String) throws -> FrozenState {
        try FrozenState.open("/disk", snapshot: guid, in: fs, waitNanoseconds: 0)
    }

    private func firstByte(_ state: FrozenState) throws -> UInt8 {
        var bytes = [UInt8](repeating: 0, count: 4096)
        try bytes.withUnsafeMutableBytes { try state.read(at: 0, into: $0) }
        return bytes[0]
    }

    private func expectBusy(_ body: () throws -> Void) {
        #expect { try body() } throws: { error in
            guard let error = error as? DiskError else { return false }
            return error.code == .busy && error.message.contains("process 1 (simulated)")
        }
    }

    @Test("what a reader has open is neither merged into, nor merged away, nor removed; then it is")
    func readers() throws {
        let (disk, guids) = try newDisk(3)
        let reader = try open(guids[1])
        // Its own state, and the one below it: both are merges into a file that is read.
        for guid in guids[..<2] { expectBusy { try disk.deleteSnapshot(guid) } }
        #expect(try disk.snapshots().map(\.guid).starts(with: guids))
        #expect(try !disk.snapshots().contains(where: \.isTemporary))
        #expect(try firstByte(reader) == 2)
        try reader.checkUnchanged()
        // The state above is not read by it.
        #expect(try disk.deleteSnapshot(guids[2]))
        #expect(try firstByte(reader) == 2)
        try reader.checkUnchanged()
        reader.close()
        #expect(throws: DiskError.self) { _ = try firstByte(reader) }
        for guid in guids[..<2] { #expect(try disk.deleteSnapshot(guid)) }
        #expect(try disk.bytes(at: 0, count: 1) == [4])
        try disk.close()
    }

    @Test("a state that is changed between the look at the descriptor and the lease is not read")
    func changedBeforeTheLease() throws {
        let (disk, guids) = try newDisk(2)
        let base = "/disk/root.hds"
        let changes = Mutex(0)
        fs.setObserver { call, subject in
            guard call == .look, subject == base else { return nil }
            let isFirst = changes.withLock { count in
                count += 1
                return count == 1
            }
            if isFirst { _ = try? disk.deleteSnapshot(guids[0]) }
            return nil
        }
        #expect { _ = try open(guids[0]) } throws: { ($0 as? DiskError)?.code == .notFound }
        fs.setObserver(nil)
        #expect(changes.withLock { $0 } > 0)
        #expect(try disk.snapshots().count == 2)
        try disk.close()
    }

    @Test("a reader is refused what is just being changed, and may have it afterwards")
    func writers() throws {
        let (disk, guids) = try newDisk(3)
        var refusals = 0
        #expect(
            try disk.deleteSnapshot(guids[0]) { _, _ in
                #expect { _ = try open(guids[2]) } throws: { ($0 as? DiskError)?.code == .busy }
                refusals += 1
                return true
            })
        #expect(refusals > 0)
        #expect(try firstByte(try open(guids[2])) == 3)
        try disk.close()
    }

    @Test("what changed since a state that is being removed is not told")
    func leavingBase() throws {
        let (disk, guids) = try newDisk(3)
        let ready = try open(guids[2])
        try ready.forEachChangedRun(since: guids[0]) { (_) throws(DiskError) in true }
        ready.close()
        // What was merged into it is no longer above it.
        #expect(try !disk.deleteSnapshot(guids[0]) { _, _ in false })
        let state = try open(guids[2])
        #expect {
            try state.forEachChangedRun(since: guids[0]) { (_) throws(DiskError) in true }
        } throws: { error in
            guard case .disk(let error)? = error as? ScanError<DiskError> else { return false }
            return error.code == .notFound
        }
        state.close()
        try disk.close()
    }

    @Test("a device that is only read, and a leaf, are leased like a snapshot")
    func readOnlyDisk() throws {
        let (disk, guids) = try newDisk(2)
        let reader = try Disk.open("/disk", in: fs, options: .readOnly)
        expectBusy { try disk.deleteSnapshot(guids[0]) }
        try reader.close()
        #expect(try disk.deleteSnapshot(guids[0]))
        try disk.close()
        // A branch: the state that was above is a leaf then.
        try switchSnapshot(of: "/disk", to: guids[1], in: fs)
        let again = try Disk.open("/disk", in: fs)
        let leaf = try again.commitSnapshot(try again.prepareSnapshot()).guid
        try again.close()
        try switchSnapshot(of: "/disk", to: guids[1], in: fs)
        let last = try Disk.open("/disk", in: fs)
        let state = try open(leaf)
        expectBusy { try last.deleteSnapshot(leaf) }
        try state.checkUnchanged()
        state.close()
        #expect(try last.deleteSnapshot(leaf))
        try last.close()
    }

    @Test("the driver's owner obeys the leases, too")
    func heldDisk() throws {
        let (disk, guids) = try newDisk(2)
        try disk.close()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        let reader = try open(guids[1])
        expectBusy { _ = try held.beginDeletion(of: guids[0]) }
        #expect(try !held.snapshots().contains(where: \.isTemporary))
        reader.close()
        switch try held.beginDeletion(of: guids[0]) {
        case .merge(let pending):
            #expect { _ = try open(guids[1]) } throws: { ($0 as? DiskError)?.code == .busy }
            _ = try held.finishDeletion(pending)
        case .done: Issue.record("no merge is needed")
        }
        #expect(try firstByte(try open(guids[1])) > 0)
        held.release()
        let readOnly = try HeldDisk.take("/disk", in: fs, readOnly: true)
        let owner = try HeldDisk.take("/disk", in: fs, readOnly: false)
        expectBusy { _ = try owner.beginDeletion(of: guids[1]) }
        readOnly.release()
    }

    @Test("who changes a state without asking is found out")
    func foreignChange() throws {
        let (disk, guids) = try newDisk(2)
        let reader = try open(guids[1])
        let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
        let name = try #require(GUID(typed: guids[1]))
        try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name) }
        #expect { try reader.checkUnchanged() } throws: { ($0 as? DiskError)?.code == .busy }
        try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name, false) }
        try reader.checkUnchanged()
        // A file put in the place of one that is read.
        let path = folder.path(of: try #require(try folder.load().image(name)))
        try fs.rename(path, to: path + ".old")
        _ = try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        #expect { try reader.checkUnchanged() } throws: { ($0 as? DiskError)?.code == .busy }
        try fs.rename(path + ".old", to: path)
        try disk.close()
    }

    @Test("a frozen delta that is read is finished afterwards, and never touched meanwhile")
    func finishing() throws {
        let (disk, guids) = try newDisk(1)
        let state = try #require(try disk.snapshots().first { $0.guid == guids[0] })
        let path = "/disk/" + state.file
        let before = try fs.contents(of: path, limit: 1 << 30)
        let reader = try open(guids[0])
        try disk.finishFrozen()
        #expect(try fs.contents(of: path, limit: 1 << 30) == before)
        #expect(disk.maintenance.withLock { $0.unfinished.count } == 1)
        reader.close()
        try disk.finishFrozen()
        #expect(try fs.contents(of: path, limit: 1 << 30) != before)
        #expect(disk.maintenance.withLock { $0.unfinished.isEmpty })
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }
}
