import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

/// What an owner took may be renamed, replaced or removed under its feet: then it changes nothing but its images.
@Suite struct OwnedPlaceTests {
    private let fs = LinuxFileSystem()
    private static let size: UInt64 = 4 << 20

    private func newDisk(_ folder: TemporaryFolder, _ name: String = "disk") throws -> String {
        try createDisk(at: folder.file(name), options: CreateOptions(byteCount: Self.size), in: fs)
        return folder.file(name)
    }

    private func write(_ disk: Disk, _ byte: UInt8, at offset: UInt64 = 0) throws {
        try [UInt8](repeating: byte, count: 4096).withUnsafeBytes { try disk.write(at: offset, from: $0) }
        try disk.flush()
    }

    private func code(_ body: () throws -> Void) -> DiskError.Code? {
        do { try body() } catch { return (error as? DiskError)?.code }
        return nil
    }

    /// What a folder holds but for the locks.
    private func content(of folder: String) throws -> [String: [UInt8]] {
        var content: [String: [UInt8]] = [:]
        for name in try fs.list(folder) where !name.hasSuffix(".lck") && !name.hasSuffix(".lock") {
            content[name] = try readFile("\(folder)/\(name)")
        }
        return content
    }

    @Test("another disk in the place of one that is in use is left alone, and the one in use goes on")
    func renamed() throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        let disk = try Disk.open(path, in: fs)
        try write(disk, 1)
        let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        try write(disk, 2)
        let waiting = try disk.prepareSnapshot()
        try fs.rename(path, to: folder.file("old"))
        _ = try newDisk(folder)
        let before = try content(of: path)
        #expect(code { _ = try disk.commitSnapshot(waiting) } == .inUse)
        disk.abandonSnapshot(waiting)
        #expect(code { _ = try disk.prepareSnapshot() } == .inUse)
        #expect(code { try disk.grow(to: 2 * Self.size) } == .inUse)
        #expect(code { try disk.deleteSnapshot(first) } == .inUse)
        #expect(code { try disk.proveInPlace() } == .inUse)
        #expect(try content(of: path) == before)
        try write(disk, 3, at: 1 << 20)
        try disk.close()
        #expect(try content(of: path) == before)
        let again = try Disk.open(folder.file("old"), in: fs)
        #expect(try again.bytes(at: 0, count: 1) == [2] && again.bytes(at: 1 << 20, count: 1) == [3])
        #expect(again.byteCount == Self.size)
        try again.close()
    }

    @Test("the driver's owner leaves another disk in the place of its own alone, too")
    func renamedHeld() throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        let held = try HeldDisk.take(path, in: fs, readOnly: false)
        let top = try held.makeTop()
        try fs.rename(path, to: folder.file("old"))
        _ = try newDisk(folder)
        let before = try content(of: path)
        var isSwitched = false
        #expect(code { try held.commitTop(top) { isSwitched = true } } == .inUse)
        #expect(code { _ = try held.makeTop() } == .inUse)
        #expect(code { try held.grow(to: 2 * Self.size) { isSwitched = true } } == .inUse)
        #expect(try !isSwitched && content(of: path) == before)
        try held.close()
    }

    @Test("an old descriptor that is put back is not taken for the one that is served, and nothing that was is removed")
    func descriptor() throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        let disk = try Disk.open(path, in: fs)
        try write(disk, 1)
        let old = try readFile("\(path)/DiskDescriptor.xml")
        let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        let right = try readFile("\(path)/DiskDescriptor.xml")
        try write(disk, 2)
        let waiting = try disk.prepareSnapshot()
        try fs.replaceContents(of: "\(path)/DiskDescriptor.xml", with: old)
        #expect(code { _ = try disk.commitSnapshot(waiting) } == .corrupt)
        disk.abandonSnapshot(waiting)
        #expect(code { _ = try disk.prepareSnapshot() } == .corrupt)
        #expect(code { try disk.deleteSnapshot(first) } == .corrupt)
        #expect(code { try disk.grow(to: 2 * Self.size) } == .corrupt)
        #expect(code { _ = try disk.compactNow { _, _ in true } } == .corrupt)
        #expect(code { _ = try disk.startTracking() } == .corrupt)
        #expect(code { _ = try disk.snapshots() } == .corrupt)
        #expect(try readFile("\(path)/DiskDescriptor.xml") == old)
        try write(disk, 3)
        #expect(code { try disk.close() } == .corrupt)
        #expect(try readFile("\(path)/DiskDescriptor.xml.served").starts(with: right))
        // Whoever opens the old one has to say so, and removes nothing that it does not name.
        #expect(code { _ = try Disk.open(path, in: fs) } == .corrupt)
        try fs.remove("\(path)/DiskDescriptor.xml.served")
        try Disk.open(path, in: fs).close()
        try fs.replaceContents(of: "\(path)/DiskDescriptor.xml", with: right)
        let again = try Disk.open(path, in: fs)
        #expect(try again.bytes(at: 0, count: 1) == [3])
        try again.close()
    }

    @Test("what ploop's tools change elsewhere in the tree is nobody's mistake") func elsewhere() throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        let disk = try Disk.open(path, in: fs)
        let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        let name = try #require(GUID(typed: first))
        let other = DiskFolder(resolvedPath: path, fs: fs)
        try other.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name) }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try disk.close()
    }

    @Test("an image that is replaced is not built upon") func image() throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        let disk = try Disk.open(path, in: fs)
        try write(disk, 1)
        try fs.replaceContents(of: "\(path)/root.hds", with: try readFile("\(path)/root.hds"))
        #expect(code { _ = try disk.prepareSnapshot() } == .corrupt)
        #expect(code { try disk.close() } == .corrupt)
    }

    @Test(
        "a lock that is removed lets nobody else in, and its owner changes no names without it",
        arguments: [true, false])
    func lock(isHeld: Bool) throws {
        let folder = try TemporaryFolder()
        let path = try newDisk(folder)
        var disk: Disk?
        var held: HeldDisk?
        if isHeld { held = try HeldDisk.take(path, in: fs, readOnly: false) }
        if !isHeld { disk = try Disk.open(path, in: fs) }
        try fs.remove("\(path)/\(DiskFolder.ownerLockName)")
        for _ in 0..<2 {
            #expect(code { _ = try Disk.open(path, in: fs) } == .inUse)
            #expect(code { _ = try HeldDisk.take(path, in: fs, readOnly: false) } == .inUse)
            #expect(code { _ = try checkDisk(at: path, repair: true, in: fs) } == .inUse)
            #expect(code { _ = try checkDisk(at: "\(path)/root.hds", repair: true, in: fs) } == .inUse)
            #expect(code { _ = try disk?.prepareSnapshot() } == (isHeld ? nil : .inUse))
            #expect(code { _ = try held?.makeTop() } == (isHeld ? .inUse : nil))
        }
        // Who only reads may.
        let reader = try Disk.open(path, in: fs, options: .readOnly)
        try reader.close()
        try disk?.close()
        try held?.close()
        try Disk.open(path, in: fs).close()
    }

    @Test("who does not get the lock does not claim the folder, not even for a moment") func noClaim() throws {
        let fs = SimulatedFileSystem()
        try createDisk(at: "/disk", options: CreateOptions(byteCount: Self.size), in: fs)
        let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
        let lock = try #require(try fs.lock("/disk/\(DiskFolder.ownerLockName)", wait: false))
        let claims = Mutex(0)
        fs.setObserver { _, subject in
            if subject == "/disk" { claims.withLock { $0 += 1 } }
            return nil
        }
        #expect(code { _ = try folder.lockOwner() } == .inUse)
        #expect(claims.withLock { $0 } == 0)
        withExtendedLifetime(lock) {}
    }

    @Test("a grow on a full host happens in whole or not at all") func growFull() throws {
        var number = 1
        while true {
            let fs = SimulatedFileSystem()
            try createDisk(at: "/disk", options: CreateOptions(byteCount: Self.size), in: fs)
            let disk = try Disk.open("/disk", in: fs)
            fs.setPlan(.outOfSpace(at: number))
            let failure = code { try disk.grow(to: 2 * Self.size) }
            fs.setPlan(nil)
            #expect(disk.byteCount == (failure == nil ? 2 : 1) * Self.size, "\(number)")
            #expect(failure == nil || failure == .outOfSpace, "\(number)")
            try disk.close()
            let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
            #expect(try folder.load().sectorCount == disk.byteCount / sectorBytes, "\(number)")
            #expect(try checkDisk(at: "/disk", in: fs).findings.isEmpty, "\(number)")
            if failure == nil { break }
            number += 1
        }
        #expect(number > 2)
    }

    @Test("a size that the descriptor missed keeps no disk from being opened on a full host, and is told at its end")
    func missedSize() throws {
        let fs = SimulatedFileSystem()
        try createDisk(at: "/disk", options: CreateOptions(byteCount: Self.size), in: fs)
        let old = try fs.contents(of: "/disk/DiskDescriptor.xml", limit: 1 << 20)
        let disk = try Disk.open("/disk", in: fs)
        try disk.grow(to: 2 * Self.size)
        try disk.close()
        try fs.replaceContents(of: "/disk/DiskDescriptor.xml", with: old)
        fs.setPlan(.outOfSpace(at: 1))
        let again = try Disk.open("/disk", in: fs)
        #expect(again.byteCount == 2 * Self.size)
        // Nor from being closed well.
        try again.close()
        let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        try held.setByteCount(2 * Self.size)
        try held.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
        fs.setPlan(nil)
        try Disk.open("/disk", in: fs).close()
        let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
        #expect(try folder.load().sectorCount == 2 * Self.size / sectorBytes)
    }
}
