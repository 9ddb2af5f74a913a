import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// What is on record of a disk that is attached, when ploop's own tools, a failure, or nothing but a kill comes after.
@Suite struct ServedRecordTests: ServedDiskSuite {
    /// A new top, as ploop's tools make one: on the top, or in its place.
    private func addTop(_ fs: SimulatedFileSystem, replacesTop: Bool = false) throws {
        let folder = DiskFolder(resolvedPath: "/disk", fs: fs)
        let name = try #require(GUID(typed: "{22222222-1111-1111-1111-111111111111}"))
        let file = "root.hds.{33333333-1111-1111-1111-111111111111}"
        let before = try folder.load()
        let header = try DeltaFile.readHeader(of: try fs.open("/disk/root.hds", .read), path: "")
        let image = try fs.open("/disk/" + file, OpenMode(writable: true, creation: .exclusive))
        try NewImage.writeEmpty(header, to: image)
        try image.synchronize()
        try folder.updateDescriptor { descriptor throws(ImageError) in
            if replacesTop {
                let base = try descriptor.chain(to: descriptor.top)[0].guid
                _ = try descriptor.switchTop(to: base, newTopFile: file)
            } else {
                try descriptor.addSnapshot(name, newTopFile: file)
            }
        }
        if replacesTop, let old = before.image(before.top) { try fs.remove("/disk/" + old.file) }
    }

    @Test("after a kill ploop's tools may go back to a snapshot: what they have removed was nobody's to go on with")
    func switchedByOther() throws {
        let fs = try newDisk()
        var disk: Disk? = try open(fs)
        try disk.map { try write($0, 7) }
        _ = try disk.map { try $0.commitSnapshot(try $0.prepareSnapshot()) }
        try disk.map { try write($0, 8) }
        disk = nil
        #expect(try fs.exists(Self.served))
        try addTop(fs, replacesTop: true)
        let again = try open(fs)
        #expect(try again.bytes(at: 0, count: 1) == [7])
        try again.close()
    }

    @Test("a snapshot that another tool put in place while the disk was served is refused until somebody has chosen")
    func snapshotWhileServed() throws {
        let fs = try newDisk()
        let disk = try open(fs)
        try write(disk, 7)
        let right = try contents(fs)
        try addTop(fs)
        try write(disk, 8)
        #expect(code { try disk.close() } == .corrupt)
        let kept = try fs.contents(of: Self.served, limit: 1 << 20)
        #expect(kept.starts(with: right))
        for _ in 0..<2 { #expect(code { try open(fs).close() } == .corrupt) }
        // It is a descriptor all the same.
        let copy = fs.duplicate()
        try copy.rename(Self.served, to: Self.descriptor)
        let disks = [
            try open(copy),
            try {
                try fs.remove(Self.served); return try open(fs)
            }(),
        ]
        for disk in disks {
            #expect(try disk.bytes(at: 0, count: 1) == [8])
            try disk.close()
        }
    }

    @Test("an open that fails leaves on record what was served", arguments: 1...12)
    func failedOpen(number: Int) throws {
        let fs = try newDisk()
        let old = try contents(fs)
        var disk: Disk? = try open(fs)
        _ = try disk.map { try $0.commitSnapshot(try $0.prepareSnapshot()) }
        try disk.map { try write($0, 7) }
        disk = nil
        fs.setPlan(FaultPlan(.fail(.ioError), at: number, of: [.read]))
        var opened: Disk?
        let failure = code { opened = try open(fs) }
        fs.setPlan(nil)
        guard failure != nil else { return try #require(number > 4 ? opened : nil).close() }
        try fs.replaceContents(of: Self.descriptor, with: old)
        #expect(code { try open(fs).close() } == .corrupt, "read \(number)")
    }

    @Test(
        "a merge of the driver's that can't be put on record leaves no false alarm",
        arguments: [Errno.ioError, .noSpace])
    func failedMerge(errno: Errno) throws {
        var number = 1
        var failures = 0
        while number < 200 {
            let fs = try newDisk()
            let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
            held.noteAttached()
            var tops: [HeldDisk.NewTop] = []
            for _ in 0..<2 {
                tops.append(try held.makeTop())
                try held.commitTop(tops[tops.count - 1]) { () throws(DiskError) in }
            }
            let before = fs.changeCount
            fs.setPlan(FaultPlan(.fail(errno), at: number))
            let failure = code {
                switch try held.beginDeletion(of: tops[1].guid) {
                case .merge(let pending): _ = try held.finishDeletion(pending)
                case .done: break
                }
            }
            let isOver = fs.changeCount - before < number && failure == nil
            fs.setPlan(nil)
            held.release()
            if isOver { break }
            if failure != nil { failures += 1 }
            for survival in [Survival.nothing, .everything, .prefix(seed: 3), .random(seed: 4)] {
                let after = fs.afterPowerCut(survival)
                #expect(code { try open(after).close() } == nil, "call \(number), \(survival)")
            }
            number += 1
        }
        #expect(failures > 3)
    }

    @Test("that writes were stopped for another host is on record, whatever else is left of that")
    func stopped() throws {
        let fs = try newDisk()
        var held = try HeldDisk.take("/disk", in: fs, readOnly: false)
        held.noteAttached()
        // A migration that was killed had left its record.
        try fs.replaceContents(of: "/disk/\(DiskFolder.migratedMarkName).pending", with: [1])
        func next() throws -> HeldDisk {
            held.release()
            return try HeldDisk.take("/disk", in: fs, readOnly: false)
        }
        held = try next()
        #expect(try !held.wasStopped())
        held.noteAttached()
        held.noteStopped(true)
        try fs.remove("/disk/\(DiskFolder.migratedMarkName).pending")
        held = try next()
        #expect(try held.wasStopped())
        held.noteAttached()
        held.noteStopped(false)
        held = try next()
        #expect(try !held.wasStopped())
        held.release()
        try open(fs).close()
    }

    @Test("a device that another tool has ended leaves its record only where the descriptor is another one")
    func ended() throws {
        for isReplaced in [false, true] {
            let fs = try newDisk()
            let old = try contents(fs)
            let held = try HeldDisk.take("/disk", in: fs, readOnly: false)
            held.noteAttached()
            try held.commitTop(try held.makeTop()) { () throws(DiskError) in }
            if isReplaced { try fs.replaceContents(of: Self.descriptor, with: old) }
            held.deviceHasGone()
            held.release()
            #expect(try fs.exists(Self.served) == isReplaced)
            #expect(code { try open(fs).close() } == (isReplaced ? .corrupt : nil))
        }
    }
}
