import Geometry
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// A process that is killed leaves everything it did visible, and what it had not synchronised not durable. The next
/// one must not build on that: a power cut may take it back.
@Suite struct KillTests {
    struct Run: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var byteCount: UInt64 = 2 << 20
        var prepare: [DiskModel.Step] = []
        var steps: [DiskModel.Step]
    }
    private static let runs = [
        Run(
            testDescription: "allocation and discard",
            steps: [
                .write(sector: 0, count: 8, durable: false), .flush, .write(sector: 4, count: 100, durable: false),
                .discard(sector: 0, count: 64), .flush, .write(sector: 640, count: 64, durable: true), .reopen,
                .write(sector: 800, count: 8, durable: false), .flush,
            ]),
        Run(
            testDescription: "snapshots and merges", prepare: [.write(sector: 0, count: 300, durable: false), .flush],
            steps: [
                .snapshot, .write(sector: 64, count: 100, durable: true), .snapshot,
                .write(sector: 10, count: 200, durable: false), .flush, .delete(0),
                .write(sector: 500, count: 9, durable: true), .delete(0), .write(sector: 0, count: 9, durable: true),
            ]),
        Run(
            testDescription: "the end of the file goes",
            prepare: [
                .write(sector: 0, count: 64, durable: false), .write(sector: 64, count: 64, durable: false),
                .write(sector: 128, count: 64, durable: false), .flush,
            ],
            steps: [
                .discard(sector: 128, count: 64), .flush, .write(sector: 0, count: 8, durable: true),
                .discard(sector: 64, count: 64), .flush,
            ]),
        Run(
            testDescription: "growing", byteCount: UInt64(8170) << 15,
            prepare: [
                .write(sector: 0, count: 300, durable: false), .write(sector: 8160 * 64, count: 64, durable: false),
                .flush,
            ],
            steps: [.grow(UInt64(8300) << 15), .write(sector: 8299 * 64, count: 60, durable: true)]),
    ]

    enum Fate: CaseIterable {
        /// Nothing that the process would have done after that has any effect.
        case killed
        /// One call fails; the process cleans up and ends.
        case failed
        /// Killed, and then the power goes while the next process makes good what it finds.
        case killedThenCut
    }

    @Test(
        "flushed data survives a process that is killed or fails at any change, another one, and then a power cut",
        arguments: runs, Fate.allCases)
    func killed(run: Run, fate: Fate) throws {
        var random = SeededRandom("\(run.testDescription), \(fate)")
        var number = fate == .killedThenCut ? 1 + random.below(2) : 1
        while true {
            let model = try DiskModel(byteCount: run.byteCount)
            try model.open()
            for step in run.prepare { try model.apply(step) }
            let before = model.fs.changeCount
            model.fs.setPlan(FaultPlan(.fail(.ioError), at: number, isLasting: fate != .failed))
            do {
                for step in run.steps { try model.apply(step) }
                try model.close()
            } catch is DiskError { try? model.disk?.close() } catch is SystemError { try? model.disk?.close() }
            let isOver = model.fs.changeCount - before < number
            model.fs.setPlan(nil)
            if isOver { break }
            do {
                if fate == .killedThenCut {
                    model.fs.setPlan(.stop(atChange: 1 + number % 7))
                    model.disk = nil
                    try? model.restart()
                    try model.crash(.random(seed: UInt64(number)))
                } else {
                    try model.restart()
                }
                try model.apply(.write(sector: 3, count: 70, durable: false))
                try model.apply(.write(sector: 900, count: 130, durable: false))
                try model.apply(.flush)
                try model.verify()
                try model.crash(number % 2 == 0 ? .nothing : .random(seed: UInt64(number)))
                try model.verify()
                try model.close()
                try model.check()
            } catch {
                Issue.record("\(run.testDescription), \(fate) at change \(number): \(error)")
                return
            }
            // One in two of the longest kind.
            number += fate == .killedThenCut ? 2 : 1
        }
        #expect(number > 10)
    }
}

extension DiskModel {
    /// The process is gone, the host lives on: another one opens the disk.
    func restart() throws {
        disk = nil
        try open()
        try settleUncertain()
        for cluster in touched.sorted() {
            let start = Int(cluster * clusterSize.bytes / 512)
            let end = Int(min((cluster + 1) * clusterSize.bytes, byteCount) / 512)
            if end > start { try takeOver(start..<end) }
        }
        try verifySnapshots()
    }
}
