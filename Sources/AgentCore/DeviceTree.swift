internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// What stands on a block device: its partitions, what is stacked on them, and where they are mounted.
enum DeviceTree {
    /// - Parameter all: every mount, in the order in which they were made; otherwise one for each file system.
    static func mounts(on device: String, all: Bool = false) throws(AgentError) -> [Mount] {
        let numbers = try numbers(BlockDeviceMaker.name(of: device))
        let table = try withAgentError { () throws(SystemError) in try MountTable.current() }
        var seen: Set<String> = []
        let mounts = table.mounts.filter { $0.lies(on: numbers) }
        if all { return mounts }
        // What is found at its path comes first.
        let sorted = mounts.filter { !table.isHidden($0) } + mounts.filter { table.isHidden($0) }
        return sorted.filter { seen.insert($0.device).inserted }
    }

    /// Those that are mounted in other namespaces only.
    static func mountsElsewhere(on device: String) throws(AgentError) -> [MountElsewhere] {
        let own = Set(try mounts(on: device).map(\.device))
        let numbers = try numbers(BlockDeviceMaker.name(of: device))
        return try withAgentError { () throws(SystemError) in
            try BlockIO.mountsElsewhere(on: numbers, besides: own)
        }
    }

    /// Where each file system can be frozen that the driver does not freeze, if it serves the disk.
    static func toFreeze(on device: String, isOfDriver: Bool) throws(AgentError) -> [FreezeTarget] {
        // The driver freezes what lies directly on its device, wherever that is mounted.
        let isDirect = isOfDriver ? try !isStackedOn(device) : false
        let here = try mounts(on: device).filter { !isDirect || $0.hasOwnNumber }
        let elsewhere = try mountsElsewhere(on: device).filter { !isDirect || $0.mount.hasOwnNumber }
        func target(_ mount: Mount, _ path: String) -> FreezeTarget {
            FreezeTarget(path: path, device: mount.hasOwnNumber ? nil : mount.device)
        }
        return here.map { target($0, $0.mountPoint) } + elsewhere.map { target($0.mount, $0.path) }
    }

    /// The loop devices whose file is a device, which the kernel does not count among its holders.
    private static func loopsOnDevices() throws(AgentError) -> [(name: String, file: String)] {
        let names = try withAgentError { () throws(SystemError) in try LinuxFileSystem().list("/sys/block") }
        var loops: [(name: String, file: String)] = []
        for name in names where name.begins(with: "loop") {
            if let file = try BlockDeviceMaker.attribute("/sys/block/\(name)/loop/backing_file"),
                file.begins(with: "/dev/")
            {
                loops.append((name, file))
            }
        }
        return loops
    }

    /// Whether other block devices stand on this one or on a partition of it.
    static func isStackedOn(_ device: String) throws(AgentError) -> Bool {
        let name = BlockDeviceMaker.name(of: device)
        return try numbers(name).count > 1 + partitions(of: name).count
    }

    private static func partitions(of name: String) throws(AgentError) -> [String] {
        try withAgentError { () throws(SystemError) in
            try LinuxFileSystem().list("/sys/class/block/\(name)").filter { $0.begins(with: "\(name)p") }
        }
    }

    /// `major:minor` of the device, its partitions, and of what holds any of them (device mapper, md, loop devices).
    static func numbers(_ name: String) throws(AgentError) -> Set<String> {
        var numbers: Set<String> = []
        var names = [name]
        var visited: Set<String> = []
        let loops = try loopsOnDevices()
        while let name = names.popLast() {
            let folder = "/sys/class/block/\(name)"
            guard visited.insert(name).inserted, let number = try BlockDeviceMaker.attribute("\(folder)/dev") else {
                continue
            }
            numbers.insert(number)
            names += loops.filter { $0.file.isSame(as: "/dev/\(name)") }.map(\.name)
            names += try partitions(of: name)
            names += try withAgentError { () throws(SystemError) in
                let files = LinuxFileSystem()
                return try files.exists("\(folder)/holders") ? try files.list("\(folder)/holders") : []
            }
        }
        return numbers
    }
}
