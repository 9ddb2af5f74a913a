import BlockIO
import FoundationEssentials
import LinuxSystem
import TestSupport

/// What stands beside the test bundle: the built program and nbdkit's plugin.
enum Product {
    static let folder: String = {
        let own = (try? LinuxFileSystem().resolve("/proc/self/exe")) ?? ""
        return LinuxFileSystem.folder(of: own)
    }()
    static var program: String { "\(folder)/godwit" }
    static var plugin: String { "\(folder)/libnbdkit-godwit-plugin.so" }
    static let isBuilt = (try? LinuxFileSystem().exists(program)) == true
    static let hasPlugin = (try? LinuxFileSystem().exists(plugin)) == true
}

/// A folder with a disk in it and a run folder of its own. Whatever is attached or mounted goes with it, also after a
/// failed test.
final class DeviceBench: Sendable {
    struct Attached: Decodable {
        var disk: String
        var backend: String
        /// `nil` on the driver.
        var export: String?
        var pid: Int32
        var device: String?
        var repairedOnOpen: Bool

        private enum CodingKeys: String, CodingKey {
            case disk, backend, pid, device, repairedOnOpen
            case export = "uri"
        }

        var uri: String { export ?? "" }
        /// What qemu-io and its like open.
        var target: String { export ?? device ?? "" }
    }

    let folder: TemporaryFolder
    var path: String { folder.path }
    let disk: String
    /// The small file system that the disk lies on, if it was asked for.
    var fileSystem: String { folder.file("fs") }
    var runFolder: String { folder.file("run") }
    var mountPoint: String { folder.file("mnt") }
    let environment: [String: String]

    /// - Parameter fileSystemSize: of a file system of its own for the disk, as tmpfs(5) takes it.
    init(size: String = "256M", cluster: String = "1M", fileSystemSize: String? = nil) throws {
        folder = try TemporaryFolder()
        disk = folder.file(fileSystemSize == nil ? "disk" : "fs/disk")
        environment = processEnvironment().merging(
            ["GODWIT_RUN_DIR": folder.file("run")]
        ) { $1 }
        try LinuxFileSystem().createFolder(mountPoint)
        if let fileSystemSize {
            try LinuxFileSystem().createFolder(fileSystem)
            try expectTool("mount", "-t", "tmpfs", "-o", "size=\(fileSystemSize)", "tmpfs", fileSystem)
        }
        try godwit("disk", "create", disk, "--size", size, "--cluster", cluster)
    }

    @discardableResult
    func godwit(_ arguments: String...) throws -> String {
        let result = try run(arguments)
        guard result.exitCode == 0 else { throw ToolFailure(command: ["godwit"] + arguments, result: result) }
        return result.outputText
    }

    /// For a command whose exit code is the test's to judge.
    func run(_ arguments: [String], environment changes: [String: String] = [:]) throws -> ProgramResult {
        try ChildProcess.run(
            Product.program, arguments, environment: environment.merging(changes) { $1 }, deadlineMilliseconds: 120_000)
    }

    func decode<T: Decodable>(_ type: T.Type, _ arguments: String...) throws -> T {
        let result = try run(arguments + ["--json"])
        guard result.exitCode == 0 else { throw ToolFailure(command: ["godwit"] + arguments, result: result) }
        return try JSONDecoder().decode(type, from: Data(result.output))
    }

    /// Served by the engine, unless the options say otherwise.
    @discardableResult
    func attach(_ options: String...) throws -> Attached {
        let options = (options.contains("--backend") ? [] : ["--backend", "user"]) + options
        let result = try run(["disk", "attach", disk, "--json"] + options)
        guard result.exitCode == 0 else { throw ToolFailure(command: ["godwit disk attach"] + options, result: result) }
        return try JSONDecoder().decode(Attached.self, from: Data(result.output))
    }

    private struct Status: Decodable {
        struct One: Decodable { var attachment: Attached }
        var disks: [One]
    }

    /// What the program says of the attached disk.
    func status() throws -> Attached {
        guard let one = try decode(Status.self, "status", disk).disks.first else {
            throw BenchError(message: "\(disk) is not attached")
        }
        return one.attachment
    }

    /// Kills the disk's server as a crash would, and waits for its end.
    func kill(_ attached: Attached) throws {
        guard let server = try ProcessHandle(attached.pid) else { return }
        try server.send(Signal.kill)
        guard try server.waitForEnd(deadlineMilliseconds: 30_000) else {
            throw BenchError(message: "the server lives on")
        }
    }

    deinit {
        _ = try? run(["disk", "detach", disk, "--force"])
        // Where detach could not help: what still uses our folder, by what the kernel says of it.
        for mount in ((try? MountTable.current().mounts) ?? []).reversed() where mount.mountPoint.hasPrefix(path + "/")
        {
            try? detachFileSystem(at: mount.mountPoint)
        }
        let columns = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"]
        let loops = (try? ChildProcess.run("losetup", columns).outputText) ?? ""
        for line in loops.split(separator: "\n") where line.contains(path + "/") {
            _ = try? ChildProcess.run("losetup", ["--detach", String(line.prefix { $0 != " " })])
        }
    }
}

struct BenchError: Error { var message: String }

/// `fio` on the export with checksums in the data; `job` is added to the usual options.
func fioOverNBD(_ uri: String, _ job: [String]) throws -> ProgramResult {
    try ChildProcess.run(
        "fio", ["--name=job", "--ioengine=nbd", "--uri=\(uri)", "--verify=crc32c", "--verify_state_save=0"] + job,
        deadlineMilliseconds: 120_000)
}
