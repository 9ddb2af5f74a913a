import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// That the simulator is as cruel as it says, and no crueller.
@Suite struct SimulatedFileSystemTests {
    private let made = OpenMode(writable: true, creation: .ifMissing)

    private func contents(_ fileSystem: SimulatedFileSystem, _ path: String) throws -> [UInt8]? {
        guard try fileSystem.exists(path) else { return nil }
        return try fileSystem.contents(of: path, limit: 1 << 20)
    }

    private func begun() throws -> (SimulatedFileSystem, any StorageFile) {
        let fileSystem = SimulatedFileSystem()
        let file = try fileSystem.open("/a", made)
        try file.writeBytes([UInt8](repeating: 1, count: 4096), at: 0)
        try file.synchronize()
        try fileSystem.synchronizeFolder("/")
        return (fileSystem, file)
    }

    @Test func unsynchronizedWritesAreLostAndSynchronizedOnesKept() throws {
        let (fileSystem, file) = try begun()
        try file.writeBytes([UInt8](repeating: 2, count: 8192), at: 0)
        #expect(try file.size() == 8192)
        let after = fileSystem.afterPowerCut(.nothing)
        #expect(try contents(after, "/a") == [UInt8](repeating: 1, count: 4096))
        #expect(throws: SystemError.self) { try file.size() }
        #expect(throws: SystemError.self) { try fileSystem.list("/") }
    }

    @Test func everythingSurvivesAKilledProcess() throws {
        let (fileSystem, file) = try begun()
        try file.writeBytes([2], at: 0)
        try fileSystem.rename("/a", to: "/b")
        let after = fileSystem.afterPowerCut(.everything)
        #expect(try contents(after, "/b")?.prefix(2) == [2, 1])
        #expect(try !after.exists("/a"))
    }

    @Test func namesAreDurableOnlyWithTheirFolder() throws {
        let (fileSystem, _) = try begun()
        try fileSystem.open("/new", made).synchronize()
        try fileSystem.createFolder("/folder")
        try fileSystem.rename("/a", to: "/folder/b")
        #expect(try fileSystem.duplicate().afterPowerCut(.nothing).exists("/folder/b"))
        let lost = fileSystem.afterPowerCut(.nothing)
        #expect(try lost.list("/") == ["a"])
    }

    @Test func aRenameSurvivesAsAWhole() throws {
        for seed in 0..<50 as Range<UInt64> {
            let (fileSystem, _) = try begun()
            try fileSystem.createFolder("/folder")
            try fileSystem.synchronizeFolder("/")
            try fileSystem.rename("/a", to: "/folder/b")
            let after = fileSystem.afterPowerCut(.random(seed: seed))
            #expect(try after.exists("/a") != after.exists("/folder/b"))
        }
    }

    @Test func synchronizingOneFolderOfARenameMakesItWhole() throws {
        let (fileSystem, _) = try begun()
        try fileSystem.createFolder("/folder")
        try fileSystem.synchronizeFolder("/")
        try fileSystem.open("/folder/b", made).writeBytes([9], at: 0)
        try fileSystem.rename("/a", to: "/folder/b")
        try fileSystem.synchronizeFolder("/")
        // The older creation of b must not come back over it.
        try fileSystem.synchronizeFolder("/folder")
        let after = fileSystem.afterPowerCut(.nothing)
        #expect(try !after.exists("/a"))
        #expect(try contents(after, "/folder/b")?.count == 4096)
    }

    @Test func aRemovedFileComesBackUnlessItsFolderWasSynchronized() throws {
        let (fileSystem, _) = try begun()
        try fileSystem.remove("/a")
        #expect(try fileSystem.duplicate().list("/") == [])
        #expect(try fileSystem.afterPowerCut(.nothing).list("/") == ["a"])
        let (other, _) = try begun()
        try other.remove("/a")
        try other.synchronizeFolder("/")
        #expect(try other.afterPowerCut(.nothing).list("/") == [])
    }

    @Test func writesAreTornBetweenSectorsOnly() throws {
        var seen = Set<[UInt8]>()
        for seed in 0..<200 as Range<UInt64> {
            let (fileSystem, file) = try begun()
            try file.writeBytes([UInt8](repeating: 2, count: 2048), at: 256)
            let bytes = try #require(try contents(fileSystem.afterPowerCut(.random(seed: seed)), "/a"))
            #expect(bytes.count == 4096)
            #expect(bytes[..<256].allSatisfy { $0 == 1 } && bytes[2304...].allSatisfy { $0 == 1 })
            let parts = [256..<512, 512..<1024, 1024..<1536, 1536..<2048, 2048..<2304].map { Set(bytes[$0]) }
            #expect(parts.allSatisfy { $0.count == 1 })
            seen.insert(parts.compactMap(\.first))
        }
        #expect(seen.count > 10)
    }

    @Test func aPrefixKeepsTheOrder() throws {
        for seed in 0..<100 as Range<UInt64> {
            let (fileSystem, file) = try begun()
            for step in 0..<8 { try file.writeBytes([UInt8](repeating: 3, count: 512), at: UInt64(step) * 512) }
            let bytes = try #require(try contents(fileSystem.afterPowerCut(.prefix(seed: seed)), "/a"))
            let kept = bytes.prefix { $0 == 3 }.count
            #expect(kept % 512 == 0 && bytes.dropFirst(kept).allSatisfy { $0 == 1 })
        }
    }

    @Test func theStopComesAtTheNthChangeAndLasts() throws {
        let (fileSystem, file) = try begun()
        fileSystem.setPlan(.stop(atChange: 2))
        try file.writeBytes([5], at: 0)
        #expect(throws: SystemError(errno: SimulatedFileSystem.powerCut, operation: "synchronize", subject: "/a")) {
            try file.synchronize()
        }
        #expect(fileSystem.isStopped)
        #expect(throws: SystemError.self) { try file.readBytes(at: 0, count: 1) }
        #expect(try contents(fileSystem.afterPowerCut(.nothing), "/a")?.first == 1)
    }

    @Test func aStoppedWriteMayHaveHappened() throws {
        let (fileSystem, file) = try begun()
        fileSystem.setPlan(.stop(atChange: 1))
        #expect(throws: SystemError.self) { try file.writeBytes([5], at: 0) }
        #expect(try contents(fileSystem.afterPowerCut(.everything), "/a")?.first == 5)
    }

    @Test func aFailedCallFailsOnce() throws {
        let (fileSystem, file) = try begun()
        fileSystem.setPlan(.ioError(at: 2, of: [.synchronize]))
        try file.synchronize()
        #expect(throws: SystemError(errno: .ioError, operation: "synchronize", subject: "/a")) {
            try file.synchronize()
        }
        try file.synchronize()
        fileSystem.setPlan(FaultPlan(.fail(.noSpace), at: 1, of: [.write]))
        #expect(throws: SystemError(errno: .noSpace, operation: "write", subject: "/a")) {
            try file.writeBytes([UInt8](repeating: 6, count: 2048), at: 0)
        }
        #expect(
            try file.readBytes(at: 0, count: 2048) == [UInt8](repeating: 6, count: 1024)
                + [UInt8](repeating: 1, count: 1024))
    }

    @Test func spaceRunsOutAndComesBack() throws {
        let fileSystem = SimulatedFileSystem(capacityBytes: 4 * 4096)
        var file: (any StorageFile)? = try fileSystem.open("/a", made)
        try file?.writeBytes([UInt8](repeating: 1, count: 3 * 4096), at: 0)
        let other = try fileSystem.open("/b", made)
        #expect(throws: SystemError(errno: .noSpace, operation: "reserve", subject: "/b")) {
            _ = try other.reserve(offset: 0, count: 2 * 4096)
        }
        try file?.writeBytes([2], at: 0)
        try fileSystem.remove("/a")
        #expect(fileSystem.usedBytes == 3 * 4096)
        file = nil
        #expect(fileSystem.usedBytes == 0)
        #expect(try other.reserve(offset: 0, count: 4 * 4096))
        _ = try other.punch(offset: 0, count: 2 * 4096)
        #expect(try fileSystem.space(at: "/").freeBytes == 2 * 4096)
    }

    @Test func locksEndWithTheirHolder() throws {
        let fileSystem = SimulatedFileSystem()
        let lock = try fileSystem.lock("/lock", wait: false)
        #expect(try fileSystem.lock("/lock", wait: false) == nil)
        #expect(try fileSystem.afterPowerCut(.everything).lock("/lock", wait: false) != nil)
        _ = lock
    }
}
