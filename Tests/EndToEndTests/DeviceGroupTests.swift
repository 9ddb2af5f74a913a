import BlockIO
import FoundationEssentials
import LinuxSystem
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// The disks of one guest share one instant when it uses their block devices itself, whoever serves them.
@Suite(
    .enabled(if: Product.isBuilt, "the program is not beside the tests"), .serialized,
    .timeLimit(.minutes(3)))
struct DeviceGroupTests {
    @Test(.enabled(if: canMountLoop && hasTool("nbdfuse"), "needs root, loop devices and nbdfuse"))
    func onTheEngine() throws { try shareOneInstant(.user) }

    @Test(
        .enabled(
            if: Backend.hasDriver, "the ploop driver is not loaded: kernel/tests runs this suite in a virtual machine"))
    func onTheDriver() throws { try shareOneInstant(.kernel) }

    private struct Points: Decodable {
        struct One: Decodable {
            var point: String
            var disk: String
        }
        var backups: [One]
    }

    private func shareOneInstant(_ backend: Backend) throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let disks = [bench.disk, bench.folder.file("second")]
        try bench.godwit("disk", "create", disks[1], "--size", "64M", "--cluster", "64k")
        defer { _ = try? bench.run(["disk", "detach", disks[1], "--force"]) }
        let devices = try disks.map { disk in
            let attached = try bench.decode(
                DeviceBench.Attached.self, "disk", "attach", disk, "--device", "--backend", backend.rawValue)
            return try #require(attached.device)
        }
        let store = bench.folder.file("store")
        try bench.godwit("store", "init", store)
        let isStopping = Flag()
        let files = try devices.map { try LinuxFileSystem().open($0, OpenMode(writable: true)) }
        let guest = try OwnThread(name: "guest") {
            var number: UInt64 = 0
            while !isStopping.isSet {
                number += 1
                let block = withUnsafeBytes(of: number.littleEndian) { [UInt8]($0) }
                for file in files {
                    guard (try? file.writeBytes(block, at: 0)) != nil, (try? file.synchronize()) != nil else { return }
                }
            }
        }
        defer {
            isStopping.set()
            guest.join()
        }
        for _ in 0..<6 {
            let taken = try bench.decode(Points.self, "backup", disks[0], disks[1], "--store", store).backups
            let numbers = try taken.map { try number(in: $0.point, store, bench) }
            try #require(numbers.count == 2)
            #expect(numbers[0] == numbers[1] || numbers[0] == numbers[1] + 1, "\(backend): \(numbers)")
        }
    }

    private func number(in point: String, _ store: String, _ bench: DeviceBench) throws -> UInt64 {
        let raw = bench.folder.file("raw")
        try bench.godwit("restore", point, "--store", store, "--raw", raw)
        defer { try? LinuxFileSystem().remove(raw) }
        let bytes = try LinuxFileSystem().contents(of: raw, limit: 128 << 20).prefix(8)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    private final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .relaxed) }
        func set() { value.store(true, ordering: .relaxed) }
    }
}
