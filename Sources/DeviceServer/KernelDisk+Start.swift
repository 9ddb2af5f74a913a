internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// How a disk comes to its device: it gets a new one, or one is there from an owner that died.
extension KernelDisk {
    /// - Parameter leftBehind: the device that an owner which died has left. One that only reads is taken over by that
    ///   alone, as no lock tells that its owner is dead.
    static func start(
        _ path: String, options: DiskOptions, leftBehind: DeviceIndex? = nil
    ) throws(DiskError) -> KernelDisk {
        let files = LinuxFileSystem()
        let held = try HeldDisk.take(path, in: files, readOnly: options.readOnly)
        if let stack = try attached(held, options, leftBehind) { return try takeOver(held, stack, options) }
        guard !options.readOnly else { return try attach(held, options, isRepaired: false) }
        // The driver takes closed images only; what was not closed the engine repairs. The lock is given up for that,
        // and looked at anew after it.
        held.release()
        var repairing = options
        repairing.compactBytesMax = 0
        repairing.finishInBackground = false
        let disk = try Disk.open(path, in: files, options: repairing)
        let isRepaired = disk.repairedOnOpen
        try disk.close()
        let again = try HeldDisk.take(path, in: files, readOnly: false)
        if let stack = try attached(again, options, leftBehind) { return try takeOver(again, stack, options) }
        return try attach(again, options, isRepaired: isRepaired)
    }

    /// The device that has the disk's base, whoever made it. Several may read one base; only one may write above it,
    /// and that one's files are this disk's.
    private static func attached(
        _ held: HeldDisk, _ options: DiskOptions, _ leftBehind: DeviceIndex?
    ) throws(DiskError) -> AttachedStack? {
        let files = try held.stack().map(\.path)
        guard let base = files.first else { return nil }
        let stacks: [AttachedStack]
        do throws(SystemError) { stacks = try AttachedStack.all() } catch { throw DiskError(error, path: held.path) }
        for stack in stacks {
            guard let first = stack.files.first, isSameFile(first, base) else { continue }
            let isReadOnly: Bool
            do throws(DriverError) { isReadOnly = try Driver().status(of: stack.device).isReadOnly } catch {
                throw DiskError(error, path: held.path)
            }
            guard isReadOnly == options.readOnly else { continue }
            if isReadOnly {
                // Of one base there are many states.
                guard stack.device == leftBehind, stack.cookie == cookie,
                    stack.files.elementsEqual(files, by: isSameFile)
                else { continue }
            } else if !first.isSame(as: base) {
                throw DiskError(
                    .inUse,
                    "\(held.path): attached to \(stack.device.path) by another path, \(first); use it by that one",
                    path: held.path)
            }
            return stack
        }
        return nil
    }

    private static func isSameFile(_ one: String, _ other: String) -> Bool {
        if one.isSame(as: other) { return true }
        let files = LinuxFileSystem()
        guard let file = (try? files.identity(of: one)).flatMap({ $0 }) else { return false }
        return (try? files.identity(of: other)) == file
    }

    private static func attach(
        _ held: HeldDisk, _ options: DiskOptions, isRepaired: Bool
    ) throws(DiskError) -> KernelDisk {
        if !options.readOnly {
            try held.expectOneName()
            guard try held.isClosedBelow() else {
                throw DiskError(
                    .unsupported,
                    "\(held.path): an image below the newest was not closed, and can't be repaired as long as somebody "
                        + "reads it or it has other names (hard links); the driver takes it after that",
                    path: held.path)
            }
        }
        let images = try held.stack()
        let files = DescriptorList()
        var stack: [StackFile] = []
        var settings = AttachSettings()
        settings.isReadOnly = options.readOnly
        settings.cookie = cookie
        for (index, image) in images.enumerated() {
            let isTop = index == images.count - 1
            let descriptor: OwnedDescriptor
            do throws(SystemError) {
                descriptor = try openDescriptor(
                    image.path, writable: isTop && !options.readOnly, followsLink: DiskFolder.allowsOutside)
            } catch {
                throw DiskError(error, path: image.path)
            }
            stack.append(
                StackFile(
                    descriptor: descriptor.number, format: image.rawClusterBytes == nil ? .expandable : .raw,
                    engine: options.direct ? .automatic : .buffered))
            files.add(descriptor)
            if let bytes = image.rawClusterBytes { settings.clusterBytes = bytes }
        }
        do throws(DriverError) {
            let driver = try Driver()
            let device = try driver.attach(stack, settings)
            withExtendedLifetime(files) {}
            try? makeNodes(device)
            if !options.readOnly { held.noteAttached() }
            return KernelDisk(
                driver: driver, device: device, held: held, isReadOnly: options.readOnly, isRepaired: isRepaired)
        } catch {
            // What another device has nobody else may serve.
            guard error.errno == .resourceBusy, options.readOnly else { throw DiskError(error, path: held.path) }
            throw DiskError(
                .unsupported,
                "\(held.path): an image was not closed; the driver attaches it for writing only, which "
                    + "repairs it", path: held.path)
        }
    }

    /// Without udev there may be no node, and none of the partitions, for which the kernel looks with the first open.
    private static func makeNodes(_ device: DeviceIndex) throws(SystemError) {
        if try !LinuxFileSystem().exists(device.path), let number = try kernelText("/sys/block/\(device.name)/dev") {
            try createBlockNode(device.path, device: String(number.prefix { $0 != "\n" }))
        }
        _ = try openDescriptor(device.path, writable: false)
    }

    /// Goes on where the last owner left the device.
    private static func takeOver(
        _ held: HeldDisk, _ stack: AttachedStack, _ options: DiskOptions
    ) throws(DiskError) -> KernelDisk {
        guard stack.cookie == cookie else {
            throw DiskError(
                .inUse, "\(held.path): attached to \(stack.device.path) by another tool; detach it with that",
                path: held.path)
        }
        let disk: KernelDisk
        do throws(DriverError) {
            disk = KernelDisk(
                driver: try Driver(), device: stack.device, held: held, isReadOnly: options.readOnly, isRepaired: false)
            try disk.endOrphans()
        } catch {
            throw DiskError(error, path: held.path)
        }
        try disk.adoptStack()
        return disk
    }

    /// Ends what a dead owner was at: nobody waits for it any more.
    private func endOrphans() throws(DriverError) {
        // There may be no job, or one that can't be cancelled and is awaited.
        try? driver.cancelJob(of: device)
        _ = try driver.awaitJob(of: device)
        for bitmap in try driver.bitmaps(of: device) where bitmap.name.begins(with: Self.trackerPrefix) {
            try driver.deleteBitmap(bitmap.name, of: device)
        }
    }

    private func adoptStack() throws(DiskError) {
        let stack: AttachedStack?
        do throws(SystemError) { stack = try AttachedStack.of(device) } catch {
            throw DiskError(error, path: held.path)
        }
        guard let stack else { throw DiskError(.notFound, "\(device.path) was detached", path: held.path) }
        guard !isReadOnly else { return }
        let wasStopped = try held.wasStopped()
        // It stays on record until it is over, whoever dies meanwhile.
        if wasStopped { held.keepStopped() }
        try held.adopt(stack.files)
        held.noteAttached()
        let status = try asking { () throws(DriverError) in try driver.status(of: device) }
        try held.setByteCount(status.deviceBytes)
        // Whoever was about to give the disk away has ended, and nobody has got it. What an error of the host has
        // aborted stays so.
        if !status.isAborted {
            if wasStopped { held.noteStopped(false) }
        } else if wasStopped, try !held.isGivenAway() {
            abort.lift()
        }
    }
}

/// Descriptors that stay open as long as this lives.
private final class DescriptorList {
    private final class One {
        let descriptor: OwnedDescriptor
        init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    }
    private var all: [One] = []
    func add(_ descriptor: consuming OwnedDescriptor) { all.append(One(descriptor)) }
}
