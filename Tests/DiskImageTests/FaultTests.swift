import BlockIO
import Geometry
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

@Suite struct FaultTests {
    private static let steps: [DiskModel.Step] = [
        .write(sector: 0, count: 100, durable: false), .flush, .write(sector: 256, count: 64, durable: false),
        .discard(sector: 0, count: 64), .flush, .snapshot, .write(sector: 10, count: 8, durable: true),
        .write(sector: 300, count: 200, durable: false), .zero(sector: 256, count: 128, mayDiscard: true), .flush,
        .snapshot,
        .write(sector: 600, count: 3, durable: false), .delete(0), .grow(3 << 20),
        .write(sector: 6000, count: 4, durable: true),
        .delete(0), .flush,
    ]

    /// Applies steps until one fails. - Returns: its error.
    private func run(_ model: DiskModel, _ steps: [DiskModel.Step]) throws -> DiskError? {
        for step in steps {
            do { try model.apply(step) } catch let error as DiskError { return error }
        }
        return nil
    }

    @Test("no space at any call: the request fails with that, and nothing else is harmed")
    func outOfSpace() throws {
        var number = 1
        while true {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            model.fs.setPlan(.outOfSpace(at: number))
            let error = try run(model, Self.steps)
            model.fs.setPlan(nil)
            guard let error else {
                try model.close()
                return
            }
            guard error.code == .outOfSpace else {
                Issue.record("call \(number): \(error.code) \(error)")
                return
            }
            do {
                // There is space again, and the same disk goes on; then another process does.
                try model.settleAfterFailure()
                try model.apply(.write(sector: 900, count: 130, durable: true))
                try model.verify()
                try model.close()
                try model.open()
                try model.verify()
                try model.close()
                try model.check()
            } catch {
                Issue.record("after call \(number): \(error)")
                return
            }
            number += 1
        }
    }

    @Test("no space at any call, then a power cut: what was flushed is there")
    func outOfSpaceThenCut() throws {
        var number = 1
        while true {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            model.fs.setPlan(.outOfSpace(at: number))
            guard try run(model, Self.steps) != nil else { return }
            do {
                try model.crash(.random(seed: UInt64(number)))
                try model.verify()
                try model.close()
                try model.check()
            } catch {
                Issue.record("after call \(number): \(error)")
                return
            }
            number += 1
        }
    }

    @Test("a failed synchronisation is not taken for success later")
    func failedFlush() throws {
        var lost = 0
        for number in 1...200 {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            model.fs.setPlan(.ioError(at: number, of: [.synchronize]))
            guard let error = try run(model, Self.steps) else {
                // Most of them are of the top's file.
                #expect(lost >= 10)
                return
            }
            #expect(error.code == .io)
            model.fs.setPlan(nil)
            let failed = model.disk?.gate.failure
            if failed != nil {
                lost += 1
                #expect(throws: DiskError.self) { try model.current().flush() }
                #expect(throws: DiskError.self) { try model.apply(.write(sector: 0, count: 8, durable: false)) }
                #expect(throws: DiskError.self) { try model.current().close() }
            }
            do {
                try model.crash(.random(seed: UInt64(number)))
                try model.verify()
                try model.close()
                try model.check()
            } catch {
                Issue.record("after synchronisation \(number): \(error)")
                return
            }
        }
    }

    @Test(
        "a switch that nobody knows the end of is final, whatever it failed for", arguments: [Errno.noSpace, .ioError])
    func undecidedSwitch(errno: Errno) throws {
        var undecided = 0
        for number in 1...20 {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            let disk = try model.current()
            let prepared = try disk.prepareSnapshot()
            model.fs.setPlan(FaultPlan(.fail(errno), at: number, of: [.synchronizeFolder]))
            let isDone = (try? disk.commitSnapshot(prepared)) != nil
            model.fs.setPlan(nil)
            if let failure = disk.gate.failure {
                undecided += 1
                #expect(failure.isFinal && !failure.mayPass)
                let later = #expect(throws: DiskError.self) { try disk.flush() }
                #expect(later?.mayPass == false)
            }
            if isDone { break }
        }
        #expect(undecided > 0)
    }

    @Test("a page of the table whose write failed is written by the next flush, with nothing else to say so")
    func failedPage() throws {
        let fs = SimulatedFileSystem()
        let cluster = ClusterSize.smallest.bytes
        // Three pages of the table; the entry stands in the second half of the second one.
        let options = CreateOptions(byteCount: 2500 * cluster, clusterSize: .smallest)
        try createDisk(at: "/disk", options: options, in: fs)
        let disk = try Disk.open("/disk", in: fs)
        try [UInt8](repeating: 7, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) }
        try disk.flush()
        try [UInt8](repeating: 9, count: 4096).withUnsafeBytes { try disk.write(at: 2000 * cluster, from: $0) }
        fs.setPlan(.ioError(at: 1, of: [.write]))
        #expect(throws: DiskError.self) { try disk.flush() }
        fs.setPlan(nil)
        try disk.flush()
        let again = try Disk.open("/disk", in: fs.afterPowerCut(.nothing))
        #expect(try again.bytes(at: 2000 * cluster, count: 1) == [9])
        #expect(try again.bytes(at: 0, count: 1) == [7])
        try again.close()
    }

    @Test("a failed write fails its request only", arguments: [FaultPlan.Call.write, .read])
    func failedTransfer(call: FaultPlan.Call) throws {
        for number in 1...80 {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            model.fs.setPlan(.ioError(at: number, of: [call]))
            guard let error = try run(model, Self.steps) else { return }
            #expect(error.code == .io || error.code == .corrupt)
            model.fs.setPlan(nil)
            do {
                try model.crash(.random(seed: UInt64(number)))
                try model.verify()
                try model.close()
                try model.check()
            } catch {
                Issue.record("after \(call) \(number): \(error)")
                return
            }
        }
    }
}

extension DiskModel {
    /// A request failed: what it touched holds old or new, a snapshot is there or not.
    func settleAfterFailure() throws {
        let disk = try current()
        if let wanted = sizeWanted, disk.byteCount == wanted { byteCount = wanted }
        sizeWanted = nil
        // Whoever prepares a snapshot gives it up, in a merge, too.
        guard disk.maintenance.withLock({ $0.prepared == nil }) else {
            throw Mismatch(description: "a snapshot stays prepared")
        }
        try settleUncertain()
        for sector in possible.keys.sorted() { try takeOver(sector..<sector + 1) }
    }
}
